package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers/internal/reserve"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// handover connects a host to a worker that has no path. It is one end of a
// socketpair whose other end the worker inherits. For each connection the host
// makes one more socketpair and passes one end of it. So there is no name that
// anybody could find, take or leave behind.
type handover struct{ conn netConn }

// newHandover makes a handover. add makes the worker inherit the other end, and
// returns its number there.
func newHandover(add func(*os.File) int) (h *handover, number int, err error) {
	ours, theirs, err := fdpass.Socketpair(handoverType)
	if err != nil {
		return nil, 0, fmt.Errorf("tandem: socket: %w", err)
	}
	return &handover{ours}, add(theirs), nil
}

// dial connects to the worker.
func (h *handover) dial(ctx context.Context) (netConn, error) {
	ours, theirs, err := fdpass.Socketpair(syscall.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: %w", err)
	}
	if err = h.pass(ctx, theirs); err != nil {
		ours.Close()
		return nil, fmt.Errorf("tandem: socket: pass a connection to the worker: %w", err)
	}
	return ours, nil
}

// pass passes an end to the worker and closes it here.
func (h *handover) pass(ctx context.Context, theirs *os.File) error {
	defer theirs.Close()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = h.conn.SetWriteDeadline(past)
	})
	err := fdpass.Send(h.conn, []byte{0}, theirs)
	if !stop() {
		<-stopped
		_ = h.conn.SetWriteDeadline(time.Time{})
		if err != nil {
			return context.Cause(ctx)
		}
	}
	return sockfile.WithoutAddress(err)
}

func (h *handover) close() { h.conn.Close() }

// inherited is the worker's end of a handover. It is a listener.
type inherited struct {
	conn  netConn
	raw   syscall.RawConn
	spare *reserve.Reserve
}

// takeInherited takes the end that this process has inherited under a number.
func takeInherited(number int, spare *reserve.Reserve) (*inherited, error) {
	f := os.NewFile(uintptr(number), "handover")
	if number <= 2 || f == nil {
		return nil, fmt.Errorf("tandem: socket: the host has passed no place to listen: neither a path nor a descriptor (%d)", number)
	}
	conn, err := fileConn(f)
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: inherited descriptor %d: %w", number, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("tandem: socket: inherited descriptor %d: %w", number, err)
	}
	return &inherited{conn, raw, spare}, nil
}

// AcceptUnix waits for the next connection that the host passes. The kernel drops one for
// which there is no descriptor, so what is in reserve is released when one has come.
func (i *inherited) AcceptUnix() (*net.UnixConn, error) {
	if err := i.raw.Read(func(fd uintptr) bool { return poll(int(fd)) }); err != nil {
		return nil, err
	}
	i.spare.Release()
	r := fdpass.Reader{Conn: i.conn}
	defer r.Discard() // who passes too many, or the wrong ones, may have made them so that closing takes long
	var b [1]byte
	if _, err := r.Read(b[:]); errors.Is(err, io.EOF) {
		return nil, net.ErrClosed // by the host: there will be no more
	} else if err != nil {
		return nil, err
	}
	if len(r.Files) != 1 {
		return nil, fmt.Errorf("tandem: socket: the host has passed %d descriptors, expected 1", len(r.Files))
	}
	f := r.Files[0]
	r.Files = nil
	return fileConn(f)
}

// Close ends an AcceptUnix that waits.
func (i *inherited) Close() error { return i.conn.Close() }

// fileConn makes a connection of f, which it closes.
func fileConn(f *os.File) (netConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(netConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("it is a %T, not a Unix socket", c)
	}
	return conn, nil
}
