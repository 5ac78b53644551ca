package netconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"

	"github.com/tandemipc/tandem/ipc"
)

// Addr is the address of one end of a connection, or of a listener.
type Addr struct {
	// Name is the name that the listener has.
	Name string
	// PID is the id of the process at this end, as it knows it itself, or 0 if it is not known:
	// who dials is not told who listens.
	PID int
}

// network is what Network returns.
const network = "tandem"

// Network returns "tandem".
func (a Addr) Network() string { return network }

// String returns the name, and after an @ the process id if that is known.
func (a Addr) String() string {
	if a.PID == 0 {
		return a.Name
	}
	return a.Name + "@" + strconv.Itoa(a.PID)
}

// Errors of connections beside those of streams.
var (
	errReset    = fmt.Errorf("tandem: the other side has given the connection up: %w", syscall.ECONNRESET)
	errBroken   = fmt.Errorf("tandem: the other side takes no more: %w", syscall.EPIPE)
	errShut     = fmt.Errorf("tandem: CloseWrite was called: %w", syscall.EPIPE)
	errProtocol = fmt.Errorf("%w: the other side of the connection is none of package netconn", ipc.ErrProtocol)
)

// readError returns why a Read has ended for which the stream has returned err, or nil.
func (c *Conn) readError(m *moment, err error) error {
	switch {
	case err == nil:
		return nil
	case m.ended() && errors.Is(err, m.Err()):
		err = m.why
	case errors.Is(err, context.Canceled):
		err = errReset
	}
	if err == io.EOF {
		return err // as all readers expect it
	}
	return c.opError("read", err)
}

// writeError is readError for a Write.
func (c *Conn) writeError(m *moment, err error) error {
	switch {
	case m.ended() && errors.Is(err, m.Err()):
		err = m.why
	case err == io.EOF: // the other side has closed the connection
		err = errBroken
	case errors.Is(err, context.Canceled):
		err = errReset
	}
	return c.opError("write", err)
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}
