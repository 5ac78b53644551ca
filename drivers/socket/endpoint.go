package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/reserve"
	"github.com/tandemipc/tandem/ipc"
)

// Open prepares a worker's end: it listens at s.Address, so that the kernel
// names this process to hosts that connect, and takes the control socket, over
// which the first link runs. If it cannot listen it tells the host why.
func (Driver) Open(s *drivers.StartupData, log *slog.Logger) (drivers.Endpoint, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	var opts options
	if err := ipc.CBOR.Decode(s.DriverData, &opts); err != nil {
		return nil, fmt.Errorf("tandem: socket: read the driver's options in the startup data: %w", err)
	}
	e, err := newEndpoint(s, opts, log)
	if err != nil {
		err = process.Shortage(err)
		// Best effort: the host finds out anyway, but not why.
		_ = s.RefuseFor(err)
		return nil, err
	}
	control, err := process.Control(s)
	if err != nil {
		e.stopListening()
		return nil, err
	}
	e.control = control
	// The host has made the control socket, and may have started this process as
	// another user.
	if cred, err := peerCredentials(control); err == nil {
		e.uids = append(e.uids, cred.UID)
	}
	return e, nil
}

// newEndpoint makes an endpoint that listens.
func newEndpoint(s *drivers.StartupData, opts options, log *slog.Logger) (_ *endpoint, err error) {
	if err := process.Identify(); err != nil {
		return nil, err
	}
	e := &endpoint{
		spare: new(reserve.Reserve),
		uids:  []int{os.Geteuid()},
		opts:  opts, log: orDiscard(log), keeps: s.Resume > 0, parent: os.Getppid(),
		arrived: make(chan struct{}, 1), closing: make(chan struct{}),
		handshaking: make(map[netConn]struct{}),
		sem:         make(chan struct{}, maxHandshakes),
	}
	defer func() {
		if err != nil {
			e.spare.Close()
		}
	}()
	if err := e.spare.Fill(acceptPairs); err != nil {
		return nil, err
	}
	if s.Address == "" {
		e.ln, err = takeInherited(opts.Handover, e.spare)
		return e, err
	}
	e.site = newSite(place{path: s.Address, private: opts.Private}, os.Geteuid())
	if opts.Private {
		if err := e.site.make(); err != nil {
			return nil, fmt.Errorf("tandem: socket: make a private directory for the socket: %w", err)
		}
	}
	ln, err := e.site.listen()
	if err != nil {
		e.site.remove()
		e.site.close()
		return nil, err
	}
	e.ln = reserve.Listener{UnixListener: ln, Spare: e.spare}
	return e, nil
}

// listener yields the connections of hosts.
type listener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// endpoint is a worker's end of the driver.
type endpoint struct {
	site  *site // nil without a path
	ln    listener
	spare *reserve.Reserve // for a connection that comes when there is no descriptor left
	uids  []int            // whose processes may connect
	opts  options
	log   *slog.Logger
	// keeps: the worker keeps what it cannot send, so it has to know what that is.
	keeps bool
	// parent started us, as the host or on its behalf.
	parent int

	arrived chan struct{} // capacity 1: queue has grown
	closing chan struct{} // closed by Close
	wg      sync.WaitGroup
	sem     chan struct{} // one for each handshake that runs

	mu          sync.Mutex           // guards the following
	control     netConn              // until the first Accept
	live        *link                // the last one yielded
	host        *process.Foreign     // whose it is, if we end with it and the system can tell
	queue       []candidate          // hosts that wait for an Accept
	handshaking map[netConn]struct{} // their hellos are awaited
	closed      bool
}

// candidate is a host that has sent its hello and was not answered yet.
type candidate struct {
	conn  netConn
	hello drivers.Hello
}

var errEndpointClosed = fmt.Errorf("%w: the worker's endpoint was closed", ipc.ErrClosed)

// Accept yields the link over the control socket first. Then it waits for a
// host to connect. A host that does not agree gets an error, and Accept goes on. It
// fails when the host has ended without Detach, unless OnDisconnect is KeepAlive;
// and if the worker is not detached, when the process that started it has ended.
func (e *endpoint) Accept(ctx context.Context, local drivers.Hello) (drivers.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := process.CompleteLimits(driverName, &local.MaxMessage, &local.Window); err != nil {
		return nil, err
	}
	local = process.Hello(local, driverName, layoutVersion)

	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, errEndpointClosed
	}
	control := e.control
	e.control = nil
	if control != nil {
		e.handshaking[control] = struct{}{}
	}
	e.mu.Unlock()
	if control != nil {
		return e.acceptFirst(ctx, control, local)
	}
	check := time.NewTicker(hostCheck)
	defer check.Stop()
	for {
		if c, ok := e.dequeue(); ok {
			l, err := e.answer(c, local)
			if err == nil {
				return l, nil
			}
			c.conn.Close()
			if errors.Is(err, errEndpointClosed) {
				return nil, err
			}
			e.log.Warn("tandem: socket: a host connected and was turned away", "err", err)
			continue
		}
		if err := e.hostGone(); err != nil {
			return nil, err
		}
		select {
		case <-check.C:
		case <-e.arrived:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-e.closing:
			return nil, errEndpointClosed
		}
	}
}

// dequeue takes the first host that still waits off the queue.
func (e *endpoint) dequeue() (candidate, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropGone()
	if len(e.queue) == 0 {
		return candidate{}, false
	}
	c := e.queue[0]
	e.queue = e.queue[1:]
	return c, true
}

// dropGone drops the hosts in the queue that have hung up. e.mu is held.
func (e *endpoint) dropGone() {
	e.queue = slices.DeleteFunc(e.queue, func(c candidate) bool {
		if !gone(c.conn) {
			return false
		}
		c.conn.Close()
		return true
	})
}

func (e *endpoint) acceptFirst(ctx context.Context, conn netConn, local drivers.Hello) (drivers.Link, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	remote, err := hear(conn, local)
	if !stop() {
		err = context.Cause(ctx)
	}
	e.mu.Lock()
	delete(e.handshaking, conn)
	if e.closed {
		err = errEndpointClosed
	}
	e.mu.Unlock()
	if err != nil {
		conn.Close()
		return nil, err
	}
	l, err := e.answer(candidate{conn, remote}, local)
	if err != nil {
		conn.Close()
		return nil, err
	}
	e.wg.Go(e.acceptLoop)
	return l, nil
}

// answer sends our hello to a candidate and makes its link. The hello says that the worker
// has all that it needs for that.
func (e *endpoint) answer(c candidate, local drivers.Hello) (_ drivers.Link, err error) {
	host, err := e.findHost(c.conn, c.hello)
	if err != nil {
		process.Refuse(c.conn, err)
		return nil, err
	}
	defer func() {
		if err != nil && host != nil {
			host.Close()
		}
	}()
	if err := sendHello(c.conn, local); err != nil {
		return nil, err
	}
	if err := drivers.Agree(local, c.hello); err != nil {
		return nil, err
	}
	return e.yield(c.conn, local, c.hello, host)
}

func (e *endpoint) yield(conn netConn, local, remote drivers.Hello, host *process.Foreign) (drivers.Link, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errEndpointClosed
	}
	l, err := newLink(conn, local, remote, workerSide)
	if err != nil {
		return nil, err
	}
	l.writer.noCombine = e.keeps
	e.live = l
	if e.host != nil {
		e.host.Close()
	}
	e.host = host
	if e.opts.SecondHost == Refuse && len(e.queue) > 0 && l.alive() {
		// It came in while this one was being answered, and this one did not
		// leave meanwhile.
		refuse(e.queue[0].conn, errors.New(hasHost))
		e.queue = nil
	}
	return l, nil
}

// Close stops listening and removes the socket file.
func (e *endpoint) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.wg.Wait()
		return nil
	}
	e.closed = true
	close(e.closing)
	if e.control != nil {
		e.control.Close()
	}
	for _, c := range e.queue {
		c.conn.Close()
	}
	e.queue = nil
	if e.host != nil {
		e.host.Close()
	}
	for conn := range e.handshaking {
		_ = conn.SetDeadline(past) // its goroutine closes it
	}
	e.mu.Unlock()
	err := e.stopListening()
	e.wg.Wait()
	if err != nil {
		return fmt.Errorf("tandem: socket: stop listening: %w", err)
	}
	return nil
}

// stopListening removes the socket file and closes the socket: in this order,
// so that nobody finds the file and nobody there.
func (e *endpoint) stopListening() error {
	if e.site != nil {
		e.site.remove()
		e.site.close()
	}
	e.spare.Close()
	return e.ln.Close()
}

// orDiscard returns log, or if it is nil a logger that discards everything.
func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
