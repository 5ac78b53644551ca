package sealed

import (
	"sync/atomic"
	"unsafe"
)

// Words returns memory as words of eight bytes, for atomic use. mem begins at a page, as that of
// a [Memory] does, and what is left at its end is no word. Of memory that others write, only
// Load may be called.
func Words(mem []byte) []atomic.Uint64 {
	if len(mem) < 8 {
		return nil
	}
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/8)
}
