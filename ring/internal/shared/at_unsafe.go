package shared

import "unsafe"

// Address returns where b's memory starts.
func Address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Of returns b's memory as words. Preconditions: b starts at a multiple of 8, and its length is
// one.
func Of(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

// At64 returns the word at offset off. Preconditions: b starts at a multiple
// of 8 and so does off; the word lies inside of b.
func At64(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off : off+8][0])) }

// At32 is At64 for words of 32 bits.
func At32(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off : off+4][0])) }
