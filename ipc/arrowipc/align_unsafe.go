package arrowipc

import "unsafe"

// aligned reports whether b begins where values of 8 bytes may lie.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 == 0 }
