package socket

import (
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers/internal/process"
)

// reserve keeps descriptors for what has to be done even when the process has no other
// ones left. Its methods are safe for concurrent use.
type reserve struct {
	mu     sync.Mutex
	kept   []*os.File
	closed bool
}

// fill makes the reserve hold n pairs of descriptors. It fails only if the process is short
// of them.
func (r *reserve) fill(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && len(r.kept) < 2*n {
		a, b, err := os.Pipe()
		if process.IsShortage(err) {
			return process.Shortage(fmt.Errorf("tandem: socket: keep descriptors in reserve: %w", err))
		}
		if err != nil {
			return nil
		}
		r.kept = append(r.kept, a, b)
	}
	return nil
}

// release makes the descriptors free for use.
func (r *reserve) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.kept {
		f.Close()
	}
	r.kept = nil
}

// close releases the descriptors for good.
func (r *reserve) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.release()
}

// sparing is a listener that takes a connection with what is in reserve, if there is no
// other descriptor.
type sparing struct {
	*net.UnixListener
	spare *reserve
}

func (s sparing) AcceptUnix() (*net.UnixConn, error) {
	conn, err := s.UnixListener.AcceptUnix()
	if process.IsShortage(err) {
		s.spare.release()
		return s.UnixListener.AcceptUnix() // it still waits there
	}
	return conn, err
}
