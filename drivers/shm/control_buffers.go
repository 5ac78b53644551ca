package shm

import (
	"fmt"
	"os"

	"github.com/tandemipc/tandem/ipc"
)

// onRegion takes a region of the peer, or why its descriptor was lost. f is the link's from now on.
// The caller holds the lock of the control socket's reader.
func (l *link) onRegion(index uint32, size uint64, f *os.File, missing error) error {
	if f != nil {
		f.Close()
	}
	return fmt.Errorf("%w: shm: a region of buffers", ipc.ErrProtocol)
}

// onDrop takes that a region of the peer has gone. The caller holds the lock of the control
// socket's reader.
func (l *link) onDrop(index uint32) error {
	return fmt.Errorf("%w: shm: a region of buffers has gone", ipc.ErrProtocol)
}
