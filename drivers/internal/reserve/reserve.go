// Package reserve keeps descriptors for what a process has to do even when it has no other
// ones left.
package reserve

import (
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers/internal/process"
)

// Reserve holds descriptors. Its zero value holds none. Its methods are safe for concurrent use.
type Reserve struct {
	mu     sync.Mutex
	kept   []*os.File
	closed bool
}

// Fill makes the reserve hold n pairs of descriptors. It fails only if the process is short
// of them.
func (r *Reserve) Fill(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && len(r.kept) < 2*n {
		a, b, err := os.Pipe()
		if process.IsShortage(err) {
			return process.Shortage(fmt.Errorf("tandem: keep descriptors in reserve: %w", err))
		}
		if err != nil {
			return nil
		}
		r.kept = append(r.kept, a, b)
	}
	return nil
}

// Release makes the descriptors free for use.
func (r *Reserve) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.kept {
		f.Close()
	}
	r.kept = nil
}

// Close releases the descriptors for good.
func (r *Reserve) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Release()
}

// Listener is a listener that takes a connection with what is in reserve, if there is no
// other descriptor.
type Listener struct {
	*net.UnixListener
	Spare *Reserve
}

// AcceptUnix waits for a connection.
func (l Listener) AcceptUnix() (*net.UnixConn, error) {
	conn, err := l.UnixListener.AcceptUnix()
	if process.IsShortage(err) {
		l.Spare.Release()
		return l.UnixListener.AcceptUnix() // it still waits there
	}
	return conn, err
}
