package ipc

import "sync"

// maxPooled bounds the scratch memory that is kept for the next call, so that one
// large message does not hold its memory for ever.
const maxPooled = 64 << 10

type scratch struct{ b []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func getScratch() *scratch { return scratches.Get().(*scratch) }

// putScratch takes b back, which may be nil.
func putScratch(b *scratch) {
	if b == nil {
		return
	}
	if cap(b.b) > maxPooled {
		b.b = nil
	}
	b.b = b.b[:0]
	scratches.Put(b)
}
