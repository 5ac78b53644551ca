package socket

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// Reconnect connects to the same worker again, as [Driver].Connect says, and
// passes the new link to the callback of Links before it returns. While the
// channel is connected it does nothing and returns nil. It fails
//
//   - with an error that wraps the worker's [*ipc.ExitError], at once, when the
//     process has ended or ends meanwhile;
//   - with an error that wraps [ErrWrongPeer], at once, when another process, or
//     another run of the program, answers in the worker's place, or one that does
//     not agree in its hello;
//   - when ctx ends, with its error;
//   - with [ipc.ErrClosed] when the channel is closed;
//   - with the error of the last attempt when no attempt succeeded: an
//     [*ipc.RefusedError] while the worker serves another host, an [*ipc.TimeoutError]
//     if it does not answer, one that wraps [ipc.ErrDisconnected] if it hangs up, or
//     [ipc.ErrExhausted] while this process or the worker is short of open files.
//
// The link that was disconnected still has to be closed by its owner.
func (c *Channel) Reconnect(ctx context.Context) error {
	if err := c.takeTurn(ctx); err != nil {
		return err
	}
	defer c.endTurn()
	if c.Connected() {
		c.log.Warn("tandem: socket: Reconnect does nothing: the channel is connected", "pid", c.proc.PID())
		return nil
	}
	return c.establish(ctx, nil)
}

// takeTurn waits for the turn. It fails if the process or ctx ends, or the channel is closed.
func (c *Channel) takeTurn(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		select {
		case <-c.closing: // what Close has closed is not opened again
			c.endTurn()
			return ipc.ErrClosed
		default:
			return nil
		}
	case <-c.proc.Done():
		return c.exited()
	case <-c.closing:
		return ipc.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Channel) endTurn() { <-c.turn }

// establish connects and adopts the link. trying, if not nil, makes this an
// automatic Reconnect, and is called before each attempt.
func (c *Channel) establish(ctx context.Context, trying func(attempt int, last error)) error {
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
	l, err := c.attempt(ctx, trying)
	switch {
	case c.proc.Exit() != nil:
		err = c.exited()
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.adopt(l, trying != nil)
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
func (c *Channel) adopt(l *link, auto bool) error {
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return ipc.ErrClosed
	case auto && c.userDisconnected:
		c.mu.Unlock()
		return errUserDisconnected
	}
	if !c.shared && c.link != nil {
		_ = c.link.Close() // nobody else can
	}
	c.link, c.userDisconnected = l, false
	fn := c.fn
	c.mu.Unlock()
	select {
	case c.adopted <- struct{}{}:
	default:
	}
	if fn != nil {
		fn(l)
	}
	return nil
}

// wrongPeerError is the error of an attempt that met a process other than the
// worker. More attempts would meet it again.
type wrongPeerError struct{ error }

func (e wrongPeerError) Unwrap() []error { return []error{ErrWrongPeer, e.error} }

// attempt dials until an attempt succeeds, or no further one would.
func (c *Channel) attempt(ctx context.Context, trying func(int, error)) (*link, error) {
	delay := c.connect.delays()
	var lastErr error
	for n, last := 1, c.connect.attempts(); ; n++ {
		if trying != nil {
			trying(n, lastErr)
		}
		l, err := c.dial(ctx)
		if err == nil {
			return l, nil
		}
		err = process.Shortage(err)
		lastErr = err
		var wrongPeer wrongPeerError
		if ctx.Err() != nil || errors.As(err, &wrongPeer) {
			return nil, err
		}
		if n == last {
			return nil, fmt.Errorf("tandem: socket: worker (pid %d) cannot be reached after %d attempts: %w", c.proc.PID(), n, err)
		}
		if pause(ctx, delay(n), nil); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// pause returns after d, or when ctx ends or done is closed.
func pause(ctx context.Context, d time.Duration, done <-chan struct{}) {
	over, stop := process.After(d)
	defer stop()
	select {
	case <-over:
	case <-done:
	case <-ctx.Done():
	}
}

// dial connects once, and trusts the other side only if it is the worker.
func (c *Channel) dial(ctx context.Context) (_ *link, err error) {
	conn, err := c.connectOnce(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	remote, err := c.exchangeHellos(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		what        string
		first, then uint64
	}{
		{"start time", c.ref.StartTime, remote.StartTime},
		{"nonce", c.ref.Nonce, remote.Nonce},
	} {
		if f.first != f.then {
			return nil, wrongPeerError{fmt.Errorf("tandem: socket: another process answers in the worker's place: its %s is %d, the worker's is %d", f.what, f.then, f.first)}
		}
	}
	l, err := newLink(conn, c.local, remote, hostSide)
	if err == nil {
		l.credentials = c.credentials
	}
	return l, err
}

// connectOnce makes a connection to the worker, or to the process that the
// system takes for the worker.
func (c *Channel) connectOnce(ctx context.Context) (netConn, error) {
	ctx, cancel := withHelloTimeout(ctx)
	defer cancel()
	if c.handover != nil {
		return c.handover.dial(ctx) // nobody but the worker has the other end
	}
	conn, err := c.site.dial(ctx)
	if err != nil {
		return nil, err
	}
	cred, err := peerCredentials(conn)
	if err == nil {
		if wrong := errors.Join(cred.checkUser(c.ref.UID), cred.checkProcess(c.proc.PID(), c.ref.PID)); wrong != nil {
			err = wrongPeerError{wrong}
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// exchangeHellos sends and receives a hello, within helloTimeout. If the worker puts
// this host into its queue, it waits for the hello for as long as ctx allows.
func (c *Channel) exchangeHellos(ctx context.Context, conn netConn) (drivers.Hello, error) {
	short, cancel := withHelloTimeout(ctx)
	defer cancel()
	remote, err := c.receiveHello(short, conn, sendHello(conn, c.local))
	if errors.Is(err, ipc.ErrQueued) {
		remote, err = c.awaitTurn(ctx, conn)
	}
	var mismatch *ipc.MismatchError
	switch {
	case errors.As(err, &mismatch) || errors.Is(err, ipc.ErrProtocol) || errors.Is(err, ipc.ErrQueued):
		err = wrongPeerError{err}
	case process.HungUp(err):
		err = fmt.Errorf("%w: %w", ipc.ErrDisconnected, err)
	}
	return remote, err
}

// awaitTurn waits in the worker's queue.
func (c *Channel) awaitTurn(ctx context.Context, conn netConn) (drivers.Hello, error) {
	return c.receiveHello(ctx, conn, nil)
}

// receiveHello receives the worker's hello. sent is the error of sending ours.
func (c *Channel) receiveHello(ctx context.Context, conn netConn, sent error) (drivers.Hello, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	remote, err := process.HearHello(conn, c.local, sent)
	if !stop() {
		return remote, context.Cause(ctx)
	}
	return remote, err
}

func withHelloTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, helloTimeout,
		fmt.Errorf("%w: is the worker stopped, or busy with its last host?", &ipc.TimeoutError{What: "the answer to a connection", After: helloTimeout}))
}
