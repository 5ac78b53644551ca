package ipc

import (
	"fmt"
	"sync"
)

// Handle stands for a [Buffer] in a struct that the codec [Fixed] carries, since that takes no
// pointers:
//
//	type Frame struct {
//		Time   int64
//		Pixels ipc.Handle
//	}
//
// The sender fills it with [Buffer.Handle], and the receiver gets the buffer with Buffer. Both have to
// release their buffers as always; the garbage collector does not find those that have a Handle and
// are forgotten. The zero Handle stands for the zero Buffer. A Handle means nothing in a process
// that has not made it or got it in a message.
type Handle struct{ number uint64 }

// handled are the buffers that have a Handle.
var handled struct {
	sync.Mutex
	buffers map[uint64]Buffer
}

// Handle returns what stands for b in messages, until b is released. It panics after Release.
func (b Buffer) Handle() Handle {
	h := b.held("Handle")
	if h == nil {
		return Handle{}
	}
	handled.Lock()
	defer handled.Unlock()
	if handled.buffers == nil {
		handled.buffers = make(map[uint64]Buffer)
	}
	handled.buffers[b.id] = b
	h.handled.Store(true)
	return Handle{b.id}
}

// Buffer returns the buffer that h stands for. It fails if that was released.
func (h Handle) Buffer() (Buffer, error) {
	if h.number == 0 {
		return Buffer{}, nil
	}
	handled.Lock()
	defer handled.Unlock()
	b, ok := handled.buffers[h.number]
	if !ok {
		return Buffer{}, fmt.Errorf("tandem: a Handle stands for no buffer, or for one that was released")
	}
	return b, nil
}

// forgetHandle is called when a buffer that has a Handle is released.
func forgetHandle(id uint64) {
	handled.Lock()
	defer handled.Unlock()
	delete(handled.buffers, id)
}
