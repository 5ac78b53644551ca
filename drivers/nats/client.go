package natsipc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Client calls a service over NATS: see [Caller]. It is an [ipc.StreamCaller], and safe for concurrent use.
type Client struct {
	settings
	nc      *nats.Conn
	service string
	calls   ipc.Caller // makes calls as a whole
	tries   ipc.Caller // makes one attempt of a call

	closing chan struct{} // closed by Close

	mu       sync.Mutex
	inbox    string // with a dot at its end; "" before the first call
	sub      *nats.Subscription
	pending  map[uint64]*call
	last     uint64 // number of a call
	sweeping bool
	closed   bool
	port     *flow.Port // of streams; nil before the first one
	subjects map[subjectKey]string
}

// subjectKey says which subject it is.
type subjectKey struct{ token, method string }

// Caller returns a client of the service of this name, which [Serve] or [Forward] serves in any number
// of processes. NATS chooses one of them for each call. The connection stays the
// user's. Caller sends nothing: the first call subscribes to where answers come.
//
// If nobody serves, a call fails with CodeUnavailable at once. If the one that serves it ends, or can no longer
// be reached, the call fails with an error that wraps [ipc.ErrPeerGone], when heartbeats are missed ([WithHeartbeat]).
// While the connection is down, calls that are begun wait for it, within their timeout, and calls that are pending go
// on; when it is closed, they fail with an error that wraps [ipc.ErrDisconnected].
//
// Caller panics if nc is nil, or if service has anything but ASCII letters, digits, - and _. The client has to
// be closed.
func Caller(nc *nats.Conn, service string, opts ...Option) *Client {
	switch {
	case nc == nil:
		panic("tandem: Caller with a nil connection")
	case !validToken(service):
		panic(fmt.Sprintf("tandem: Caller: the service %q: need ASCII letters, digits, - and _", service))
	}
	c := &Client{settings: defaults(), nc: nc, service: service, closing: make(chan struct{}), pending: make(map[uint64]*call), subjects: make(map[subjectKey]string)}
	for _, opt := range opts {
		opt(&c.settings)
	}
	var around, attempts []ipc.Interceptor
	for _, i := range c.interceptors {
		around = append(around, ipc.Interceptor{Call: i.Call, Stream: i.Stream})
		attempts = append(attempts, ipc.Interceptor{Attempt: i.Attempt})
	}
	c.tries = worker.Intercept(attempt{c}, attempts...)
	c.calls = worker.Intercept(retrier{c}, around...)
	return c
}

// Codec implements [ipc.Caller].
func (c *Client) Codec() ipc.Codec {
	if c == nil {
		panic("tandem: the client is nil")
	}
	return c.codec
}

// Invoke implements [ipc.Caller].
func (c *Client) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return c.calls.Invoke(ctx, inv, request, memory)
}

// Close makes calls and streams that are pending fail, and those that are made later, with [ipc.ErrClosed]. Their handlers are told; that of a call
// which has no heartbeat yet, as it is younger than 20 ms, finds out after three. The connection stays open. The error is always nil.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
	}
	sub, port := c.sub, c.port
	var controls []string
	for _, p := range c.pending {
		if p.control != "" {
			controls = append(controls, p.control)
		}
		p.settle(outcome{err: ipc.ErrClosed})
	}
	clear(c.pending)
	c.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // the connection may be closed
	}
	if port != nil {
		port.Close(ipc.ErrClosed)
	}
	for _, control := range controls {
		c.tell(control, controlCancel)
	}
	return nil
}

// call is a call that waits for its answer. It is used again for later ones.
type call struct {
	number uint64
	answer chan outcome // takes one
	timer  *time.Timer  // of its timeout; it runs only while the call has one
	// Guarded by the client's mutex.
	settled bool
	control string // where to say that it was given up, "" while that is not known
	missed  int    // heartbeats in a row
}

// outcome is how a call has ended.
type outcome struct {
	msg *nats.Msg // or
	err error
}

var calls = sync.Pool{New: func() any {
	p := &call{answer: make(chan outcome, 1), timer: time.NewTimer(time.Hour)}
	p.timer.Stop()
	return p
}}

// settle ends the call. Only the first end counts. The client's mutex is held.
func (p *call) settle(o outcome) {
	if !p.settled {
		p.settled = true
		p.answer <- o
	}
}

// register makes a call, and subscribes to answers if nobody has yet.
func (c *Client) register() (p *call, inbox string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, "", ipc.ErrClosed
	}
	if c.sub == nil {
		inbox := c.nc.NewInbox() + "."
		sub, err := c.nc.Subscribe(inbox+"*", c.received)
		if err != nil {
			return nil, "", c.unsent(err)
		}
		// What comes is never dropped, since received does not wait for anybody.
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return nil, "", c.unsent(err)
		}
		c.inbox, c.sub = inbox, sub
	}
	c.last++
	p = calls.Get().(*call)
	p.number = c.last
	c.pending[p.number] = p
	if !c.sweeping {
		c.sweeping = true
		time.AfterFunc(c.heartbeat, c.sweep)
	}
	return p, c.inbox + strconv.FormatUint(p.number, 36), nil
}

// forget takes a call out. received says that its outcome has been received.
func (c *Client) forget(p *call, received bool) {
	c.mu.Lock()
	delete(c.pending, p.number)
	free := received || !p.settled // else an outcome is in the channel that nobody wants
	c.mu.Unlock()
	if free {
		p.timer.Stop()
		p.settled, p.control, p.missed = false, "", 0
		calls.Put(p)
	}
}

// giveUp is forget for a call whose server is told that nobody waits for it any more. If it is not known yet which server that
// is, its first heartbeat is answered so.
func (c *Client) giveUp(p *call, why string) {
	c.mu.Lock()
	control := p.control
	c.mu.Unlock()
	c.forget(p, false)
	if control != "" {
		c.tell(control, why)
	}
}

func (c *Client) tell(control, what string) {
	_ = c.nc.PublishMsg(&nats.Msg{Subject: control, Header: nats.Header{headerControl: {what}}}) // the next heartbeat asks again
}

// received takes an answer. One goroutine calls it.
func (c *Client) received(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	answer := m.Header.Get(headerAnswer)
	alive, large := answer == answerAlive, answer == answerLarge
	control := m.Header.Get(headerControl)
	if (alive || large) && !strings.HasPrefix(control, c.base()+tokenControl+".") {
		return // no service has sent that
	}
	c.mu.Lock()
	p := c.pending[number]
	if p != nil {
		switch {
		case alive, large:
			if p.control, p.missed = control, 0; large {
				p.settle(outcome{msg: m})
			}
		case len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNobody:
			p.settle(outcome{err: ipc.Errorf(ipc.CodeUnavailable, "tandem: nobody serves %q over NATS: %w", c.service, nats.ErrNoResponders)})
		default:
			p.settle(outcome{msg: m})
		}
	}
	c.mu.Unlock()
	switch {
	case !alive && !large:
	case p == nil:
		c.tell(control, controlCancel) // the server does not know yet
	case m.Reply != control: // the server is in another account, and NATS does not tell it that this caller lives
		c.tell(control, controlAlive)
	}
}

// sweep looks after calls, once in each interval, as long as there are any.
func (c *Client) sweep() {
	closed, connected := c.nc.IsClosed(), c.nc.IsConnected()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pending {
		if connected { // else nothing can come
			p.missed++
		}
		switch {
		case closed:
			p.settle(outcome{err: c.unsent(nats.ErrConnectionClosed)})
		case p.missed > maxMissed:
			p.settle(outcome{err: fmt.Errorf("tandem: a server of %q has not been heard of for %v: %w", c.service, maxMissed*c.heartbeat, ipc.ErrPeerGone)})
		}
	}
	if c.sweeping = len(c.pending) > 0; c.sweeping {
		time.AfterFunc(c.heartbeat, c.sweep)
	}
}

// unsent returns the error of a message that NATS has not taken.
func (c *Client) unsent(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		return fmt.Errorf("tandem: the connection to NATS is closed: %w: %w", ipc.ErrDisconnected, err)
	}
	return ipc.Errorf(ipc.CodeUnavailable, "tandem: send to %q over NATS: %w", c.service, err)
}
