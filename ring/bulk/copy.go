package bulk

// minFast is from how many bytes on [Copy] may use REP MOVSB. For fewer it takes longer to
// begin than it gains.
const minFast = 2 << 10

// Copy is copy, and returns how many bytes it has copied. dst and src may overlap.
func Copy(dst, src []byte) int {
	if len(src) < minFast {
		return copy(dst, src)
	}
	return copyLarge(dst, src)
}

func copyLarge(dst, src []byte) int {
	if n := min(len(dst), len(src)); n >= minFast && copyFast(dst[:n], src[:n]) {
		return n
	}
	return copy(dst, src)
}

// Append is append(dst, src...), except that what a large src needs of new memory is not
// cleared: what lies between the length and the capacity of the result can hold anything
// that this process has had in its memory.
func Append(dst, src []byte) []byte {
	if len(src) < minFast {
		return append(dst, src...)
	}
	return appendLarge(dst, src)
}

func appendLarge(dst, src []byte) []byte {
	n := len(dst)
	if cap(dst)-n < len(src) {
		if n > 0 {
			return append(dst, src...)
		}
		dst = Make(len(src))
	}
	dst = dst[:n+len(src)]
	copyLarge(dst[n:], src)
	return dst
}
