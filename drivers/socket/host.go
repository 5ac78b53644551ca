package socket

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// hostCheck is how often a worker that waits for its host looks whether the host
// is alive.
const hostCheck = 200 * time.Millisecond

// hostGone returns an error if the worker is to end because its host has.
func (e *endpoint) hostGone() error {
	e.mu.Lock()
	host, detached := e.host, e.live != nil && e.live.reader.detached.Load()
	e.mu.Unlock()
	switch {
	case e.opts.Detached && (detached || e.opts.OnDisconnect == KeepAlive):
		return nil
	case host != nil:
		if host.Exit() != nil {
			return fmt.Errorf("%w: the host (pid %d) has ended, and did not detach from this worker", ipc.ErrPeerGone, host.PID())
		}
		return nil
	case os.Getppid() != e.parent:
		return fmt.Errorf("%w: the process that started this worker (pid %d) has ended", ipc.ErrPeerGone, e.parent)
	}
	return nil
}

// findHost finds the process at the other end of conn, if the worker is to end with it.
// It returns nil if the system cannot do that; then the process that started us stands for
// the host. It fails only for a shortage.
func (e *endpoint) findHost(conn netConn, hello drivers.Hello) (*process.Foreign, error) {
	if !e.opts.Detached || e.opts.OnDisconnect == KeepAlive {
		return nil, nil
	}
	cred, err := peerCredentials(conn)
	if err != nil {
		return nil, nil
	}
	var host *process.Foreign
	if cred.PID == 0 { // the host is outside of our pid namespace
		host, err = process.Peer(conn, hello.PID, "")
	} else {
		host, err = process.Find(cred.PID, hello.StartTime, "")
	}
	if errors.Is(err, ipc.ErrExhausted) {
		return nil, err
	}
	return host, nil
}
