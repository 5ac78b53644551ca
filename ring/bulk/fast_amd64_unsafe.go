//go:build amd64 && !race

package bulk

import "unsafe"

// repMovsb copies n bytes, from the lowest address on.
//
//go:noescape
func repMovsb(dst, src *byte, n uintptr)

// cpuid returns what the processor says about itself, of subleaf 0.
func cpuid(leaf uint32) (eax, ebx, edx uint32)

// fast says that REP MOVSB is. Tests change it.
var fast = hasFastMovsb()

// hasFastMovsb reports whether the processor has both ERMS (enhanced REP MOVSB) and FSRM
// (fast short REP MOVSB): those with the first alone take long to begin.
func hasFastMovsb() bool {
	const leaf, erms, fsrm = 7, 1 << 9, 1 << 4
	if highest, _, _ := cpuid(0); highest < leaf {
		return false
	}
	_, ebx, edx := cpuid(leaf)
	return ebx&erms != 0 && edx&fsrm != 0
}

// copyFast copies src to dst, which is as long and not empty, if it can do so faster than
// copy.
//
// The stores of REP MOVSB are not ordered among each other, but any later store comes
// after them: so payloads may be copied with it, and words that publish them may not.
func copyFast(dst, src []byte) bool {
	to, from := unsafe.SliceData(dst), unsafe.SliceData(src)
	// From the lowest address on is wrong if dst begins inside of src.
	if !fast || uintptr(unsafe.Pointer(to))-uintptr(unsafe.Pointer(from)) < uintptr(len(src)) {
		return false
	}
	repMovsb(to, from, uintptr(len(src)))
	return true
}
