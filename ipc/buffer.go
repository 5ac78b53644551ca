package ipc

import "sync"

// maxPooled bounds the buffers that are kept for the next call, so that one
// large message does not hold its memory for ever.
const maxPooled = 64 << 10

type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

// putBuffer takes b back, which may be nil.
func putBuffer(b *buffer) {
	if b == nil {
		return
	}
	if cap(b.b) > maxPooled {
		b.b = nil
	}
	b.b = b.b[:0]
	buffers.Put(b)
}
