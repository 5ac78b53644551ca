package bulk

import (
	"strings"
	"unsafe"
)

// Make returns an empty slice with a capacity of at least n. Its memory is not cleared, so it
// can hold anything that this process has had in its memory.
func Make(n int) []byte {
	// A strings.Builder is the only way to memory that is not cleared. The string that
	// shares the memory is gone when anybody writes to it.
	var b strings.Builder
	b.Grow(n)
	return unsafe.Slice(unsafe.StringData(b.String()), b.Cap())[:0]
}
