package arrowipc_test

import "unsafe"

// within reports whether part lies in all.
func within(part, all []byte) bool {
	p, a := uintptr(unsafe.Pointer(unsafe.SliceData(part))), uintptr(unsafe.Pointer(unsafe.SliceData(all)))
	return p >= a && p+uintptr(len(part)) <= a+uintptr(len(all))
}

// shifted returns a copy of b that begins at an address which is no multiple of 8.
func shifted(b []byte) []byte {
	x := make([]byte, len(b)+16)
	at := 1
	for uintptr(unsafe.Pointer(&x[at]))%8 == 0 {
		at++
	}
	copy(x[at:], b)
	return x[at:][:len(b):len(b)]
}
