package netconn

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// DefaultBacklog is how many connections wait for Accept where [WithBacklog] says nothing else.
const DefaultBacklog = 128

// Listener takes connections under a name. It is a [net.Listener]. Its methods are safe for
// concurrent use.
type Listener struct {
	name   string
	queue  chan *Conn    // for Accept
	places chan struct{} // taken in queue, or about to be

	mu     sync.Mutex // held by Close
	closed chan struct{}
}

// ListenOption is an option of [Listen].
type ListenOption func(*Listener)

// WithBacklog sets how many connections may wait for Accept. Whoever dials a further one waits until
// there is room. It panics if n is not positive.
func WithBacklog(n int) ListenOption {
	if n <= 0 {
		panic(fmt.Sprintf("tandem: netconn: WithBacklog(%d): need a positive number", n))
	}
	return func(l *Listener) { l.queue, l.places = make(chan *Conn, n), make(chan struct{}, n) }
}

// served bounds how many connections a listener has at a time. It is far more than links allow, and
// makes each be served by a goroutine of its own.
const served = 1 << 24

// Listen takes connections that the other sides of r dial under this name: r is the server of a
// worker, or a client or pool whose workers dial with worker.Host, or what they share. It may be
// called at any time. Connections of all links of r come to the one listener.
//
// Listen panics if name is empty, or if r has a listener of this name already, be it closed.
func Listen(r worker.Registrar, name string, opts ...ListenOption) *Listener {
	checkName("Listen", name)
	l := &Listener{name: name, closed: make(chan struct{})}
	for _, opt := range append([]ListenOption{WithBacklog(DefaultBacklog)}, opts...) {
		opt(l)
	}
	worker.HandleBidiStream(r, stream(name), l.serve, worker.WithConcurrency(served))
	return l
}

// serve serves the stream of one connection, until that is over.
func (l *Listener) serve(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
	in.Widen(ctx, window)
	peer, _ := ipc.PeerOf(ctx)
	c := newConn(in, out, Addr{Name: l.name, PID: os.Getpid()}, Addr{Name: l.name, PID: peer.PID})
	if err := l.take(ctx, c); err != nil {
		return err
	}
	select {
	case <-c.life.done:
	case <-ctx.Done():
	}
	c.leave()
	if !c.life.ended() {
		return ctx.Err()
	}
	return c.why
}

// take greets the other side of c and puts c into the queue, when there is room, or refuses it.
func (l *Listener) take(ctx context.Context, c *Conn) error {
	if l.isClosed() {
		return l.errClosed()
	}
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return l.errClosed()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := c.out.SendPart(ctx, []byte(greeting)); err != nil {
		<-l.places
		return err
	}
	l.queue <- c // which has a place
	if l.isClosed() {
		l.refuseWaiting() // for Close may have looked before
	}
	return nil
}

// refuseWaiting refuses the connections that wait for Accept.
func (l *Listener) refuseWaiting() {
	for {
		select {
		case c := <-l.queue:
			<-l.places
			c.abort(l.errClosed())
		default:
			return
		}
	}
}

// errClosed is what those get who dial a closed listener.
func (l *Listener) errClosed() error {
	return ipc.Errorf(ipc.CodeUnavailable, "tandem: the listener %q is closed", l.name)
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Accept returns the next connection, and waits for it. The connection is a [*Conn], whose other
// side may have ended it meanwhile. After Close it returns an error that wraps [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	if !l.isClosed() {
		select {
		case c := <-l.queue:
			<-l.places
			return c, nil
		case <-l.closed:
		}
	}
	return nil, l.opError("accept")
}

// Close refuses further connections, and those that wait for Accept. Those that were accepted
// go on. A second Close returns an error.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		return l.opError("close")
	}
	close(l.closed)
	l.refuseWaiting()
	return nil
}

func (l *Listener) opError(op string) error {
	return &net.OpError{Op: op, Net: network, Addr: l.Addr(), Err: net.ErrClosed}
}

// Addr returns the address of the listener, an [Addr].
func (l *Listener) Addr() net.Addr { return Addr{Name: l.name, PID: os.Getpid()} }
