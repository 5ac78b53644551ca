package arrowipc

import "unsafe"

// aligned reports whether b begins where values of 8 bytes may lie.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 == 0 }

// offsetIn returns where in all the part begins. ok is false if it is not in it.
func offsetIn(part, all []byte) (offset int, ok bool) {
	p, a := uintptr(unsafe.Pointer(unsafe.SliceData(part))), uintptr(unsafe.Pointer(unsafe.SliceData(all)))
	if p < a || p-a > uintptr(len(all)) || uintptr(len(part)) > uintptr(len(all))-(p-a) {
		return 0, false
	}
	return int(p - a), true
}
