package latest

import "unsafe"

// address returns where b's memory starts.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// u64At returns the word at offset off. Preconditions: b starts at a multiple
// of 8 and so does off; the word lies inside of b.
func u64At(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off : off+8][0])) }
