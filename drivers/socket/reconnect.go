package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Reconnect connects to the same worker again, as [Driver].Connect says, and
// passes the new link to the callback of Links before it returns. While the
// channel is connected it does nothing and returns nil. It fails
//
//   - with an error that wraps the worker's [*ipc.ExitError], at once, when the
//     process has ended or ends meanwhile;
//   - at once when another process, or another run of the program, answers in
//     the worker's place, or one that does not agree in its hello;
//   - when ctx ends, with its error;
//   - with [ipc.ErrClosed] when the channel is closed;
//   - with the error of the last attempt when no attempt succeeded, for example
//     an [*ipc.RefusedError] while the worker serves another host.
//
// The link that was disconnected stays with who got it, and has to be closed.
func (c *Channel) Reconnect(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-c.proc.Done():
		return c.exited()
	case <-c.closing:
		return ipc.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.Connected() {
		slog.Warn("tandem: socket: Reconnect does nothing: the channel is connected", "pid", c.proc.PID())
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	defer func() { cancel(nil); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-c.proc.Done():
			cancel(c.exited())
		case <-c.closing:
			cancel(ipc.ErrClosed)
		case <-ctx.Done():
		}
	}()
	l, err := c.attempt(ctx)
	switch {
	case c.proc.Exit() != nil:
		err = c.exited()
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.adopt(l)
	}
	if err != nil && l != nil {
		l.Close()
	}
	return err
}

func (c *Channel) exited() error {
	return fmt.Errorf("tandem: socket: cannot reconnect: %w", c.proc.Exit())
}

// adopt makes l the present link.
func (c *Channel) adopt(l *link) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ipc.ErrClosed
	}
	if !c.shared {
		_ = c.link.Close() // nobody else can
	}
	c.link = l
	fn := c.fn
	c.mu.Unlock()
	if fn != nil {
		fn(l)
	}
	return nil
}

// strangerError: who answered is not the worker, so trying again is no use.
type strangerError struct{ error }

func (e strangerError) Unwrap() error { return e.error }

// attempt dials until an attempt succeeds, or no further one would.
func (c *Channel) attempt(ctx context.Context) (*link, error) {
	delay := c.connect.delays()
	for n, last := 1, c.connect.attempts(); ; n++ {
		l, err := c.dial(ctx)
		if err == nil {
			return l, nil
		}
		var stranger strangerError
		if ctx.Err() != nil || errors.As(err, &stranger) {
			return nil, err
		}
		if n == last {
			return nil, fmt.Errorf("tandem: socket: worker (pid %d) cannot be reached after %d attempts: %w", c.proc.PID(), n, err)
		}
		t := time.NewTimer(delay(n))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// dial connects once, and trusts the other side only if it is the worker.
func (c *Channel) dial(ctx context.Context) (_ *link, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout,
		fmt.Errorf("tandem: socket: the worker has not answered within %v: is it stopped, or busy with its last host?", helloTimeout))
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.target)
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: %w", err)
	}
	conn := nc.(netConn)
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	cred, err := peerCredentials(conn)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(cred.checkUser(c.uid), cred.checkProcess(c.proc.PID(), c.first.PID)); err != nil {
		return nil, strangerError{err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	remote, err := exchange(conn, c.local)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		var mismatch *ipc.MismatchError
		if errors.As(err, &mismatch) || errors.Is(err, ipc.ErrProtocol) {
			return nil, strangerError{err}
		}
		return nil, err
	}
	for _, f := range []struct {
		what        string
		first, then uint64
	}{
		{"process id", uint64(c.first.PID), uint64(remote.PID)},
		{"start time", c.first.StartTime, remote.StartTime},
		{"nonce", c.first.Nonce, remote.Nonce},
	} {
		if f.first != f.then {
			return nil, strangerError{fmt.Errorf("tandem: socket: who answers is not the worker: its %s is %d, the worker's is %d", f.what, f.then, f.first)}
		}
	}
	return newLink(conn, c.local, remote, hostSide)
}
