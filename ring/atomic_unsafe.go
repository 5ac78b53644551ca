package ring

import "unsafe"

// address returns where b's memory starts.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// wordsOf returns b's memory as 64-bit words. Preconditions: b starts at a
// multiple of 8, len(b) is a multiple of 8.
func wordsOf(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

// u64At returns the word at offset off. Preconditions: b starts at a multiple
// of 8 and so does off; the word lies inside of b.
func u64At(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off : off+8][0])) }

// u32At is u64At for 32-bit words.
func u32At(b []byte, off int) *uint32 { return (*uint32)(unsafe.Pointer(&b[off : off+4][0])) }
