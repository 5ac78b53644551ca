package ring

import (
	"math/bits"
	"sync"

	"github.com/tandemipc/tandem/ring/bulk"
)

// Messages that are joined need memory of their own, and fresh memory costs more
// than the copying does: the kernel hands it out page by page. So it can be given
// back for the next message. What is not used again soon the garbage collector
// takes, as from any sync.Pool.
const (
	minRecycled = 64 << 10 // smaller ones are quickly made anew
	// A user that cuts a header off the front of a message gives back a little
	// less than it got. With spare bytes more at first, the memory can be used
	// again many times.
	spare  = 4 << 10
	margin = 64 // bytes that must be left of the spare ones
)

var recycled [64]sync.Pool // of *[]byte with a capacity of at least 1<<index + margin

// Recycle gives the Data of a [Message] that is Owned back for later messages on any
// ring. Nothing may refer to it any more. Other memory will do as well. Any goroutine
// may call it.
func Recycle(b []byte) {
	if cap(b) >= minRecycled+margin {
		b = b[:0]
		recycled[bits.Len(uint(cap(b)-margin))-1].Put(&b)
	}
}

// buffer returns an empty slice with a capacity of at least n.
func buffer(n int) []byte {
	if n < minRecycled {
		return make([]byte, 0, n)
	}
	class := bits.Len(uint(n - margin - 1)) // what is in there is large enough
	if b, ok := recycled[class].Get().(*[]byte); ok {
		return *b
	}
	return bulk.Make(1<<class + spare)
}
