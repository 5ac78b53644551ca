package process

import (
	"io"
	"sync"
)

// tailSize is how much of stderr is kept for errors, in bytes.
const tailSize = 4 << 10

// tail keeps the last bytes of a stream and passes it on.
type tail struct {
	next io.Writer // may be nil

	mu  sync.Mutex
	buf []byte
	cut bool
}

// copyFrom reads r to its end.
func (t *tail) copyFrom(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		t.add(buf[:n])
		if t.next != nil && n > 0 {
			if _, err := t.next.Write(buf[:n]); err != nil {
				t.next = nil // as os/exec does, stop; but go on reading, so that the worker does not block
			}
		}
		if err != nil {
			return
		}
	}
}

func (t *tail) add(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
}

// String returns the last bytes, with a mark if there were more before.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return "..." + string(t.buf)
	}
	return string(t.buf)
}
