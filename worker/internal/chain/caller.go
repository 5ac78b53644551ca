package chain

import (
	"context"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

// Link is what makes the calls of a [Caller]: a session, or a batch of one.
type Link interface {
	ipc.Starter
	ipc.Batcher
	ipc.StreamCaller
}

// Caller makes each call in one attempt, inside of the functions of a chain.
type Caller struct {
	Chain *Chain
	Link  Link
	Peer  ipc.Peer
	// hold, if it is not nil, is closed when calls that were started may be waited for.
	hold <-chan struct{}
}

var (
	_ ipc.Starter = Caller{}
	_ ipc.Batcher = Caller{}
	_ Link        = Caller{}
)

// Codec implements [ipc.Caller].
func (c Caller) Codec() ipc.Codec { return c.Link.Codec() }

// Invoke implements [ipc.Caller].
func (c Caller) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return c.invoke(ctx, inv, request, memory, c.Link.Invoke)
}

func (c Caller) invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte, last Invoker) ([]byte, error) {
	return c.Chain.Call.Invoke(ctx, inv, 0, c.Peer, request, memory, func(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
		return c.Chain.Attempt.Invoke(ctx, inv, 1, c.Peer, request, memory, last)
	})
}

// OpenStream implements [ipc.StreamCaller].
func (c Caller) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	return c.Chain.OpenStream(ctx, inv, c.Peer, o, func(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
		return c.Chain.Attempt.Open(ctx, inv, 1, c.Peer, o, c.Link.OpenStream)
	})
}

// Batch implements [ipc.Batcher].
func (c Caller) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	over := make(chan struct{})
	defer close(over)
	return c.Link.Batch(ctx, func(inner ipc.Caller) error {
		link, ok := inner.(Link)
		if !ok {
			return f(inner)
		}
		return f(Caller{Chain: c.Chain, Link: link, Peer: c.Peer, hold: over})
	})
}

// Start implements [ipc.Starter]. The functions run in a goroutine, and Start returns when
// they have sent the request, so that requests are sent in the order of the calls.
func (c Caller) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	if len(c.Chain.Call)+len(c.Chain.Attempt) == 0 {
		return c.Link.Start(ctx, inv, request, memory)
	}
	p := &pending{inv: inv, sent: make(chan struct{}), wanted: make(chan struct{}), done: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(ctx)
	own := *inv
	own.Header, own.Trailer = &p.header, &p.trailer // nobody wants them after Abandon
	if own.Received != nil {
		own.Received = &p.received
	}
	go func() {
		defer p.end()
		p.response, p.err = c.invoke(ctx, &own, request, memory, func(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
			if p.begun {
				return nil, ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next twice for a call of %q that was started: only one that is waited for can be made again", inv.Method.Name)
			}
			call, err := c.Link.Start(ctx, inv, request, memory)
			if err != nil {
				return nil, err
			}
			p.begun = true
			close(p.sent)
			if c.hold != nil { // to wait would send the batch
				select {
				case <-c.hold:
				case <-p.wanted:
				case <-ctx.Done():
				}
			}
			response, over, err := call.Wait(ctx)
			if !over {
				call.Abandon()
			}
			return response, err
		})
		p.returned = true
	}()
	<-p.sent
	if p.begun {
		return p, nil
	}
	_, _, err := p.Wait(context.Background()) // it is over
	return nil, err
}

// pending is a call that was started, in a goroutine of its own.
type pending struct {
	inv    *ipc.Invocation
	cancel context.CancelFunc
	sent   chan struct{} // closed when the request was sent, or will not be
	wanted chan struct{} // closed when somebody waits
	done   chan struct{} // closed when the call is over
	begun  bool          // the request was sent, readable when sent is closed

	wanting sync.Once

	// Readable when done is closed.
	returned        bool // the functions, rather than to panic
	panicked        any
	response        []byte
	err             error
	header, trailer ipc.Metadata
	received        ipc.Attachments

	mu        sync.Mutex
	over      bool // received belongs to nobody else any more
	abandoned bool
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// end ends the goroutine of the call. It is called by defer.
func (p *pending) end() {
	if !p.returned {
		if p.panicked = recover(); p.panicked == nil {
			p.err = ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor of %q has ended its goroutine", p.inv.Method.Name)
		}
	}
	p.cancel()
	p.settle(false)
	close(p.done)
	if !p.begun {
		close(p.sent)
	}
}

// Wait implements [ipc.Pending]. If an interceptor has panicked, then so does Wait.
func (p *pending) Wait(ctx context.Context) (response []byte, over bool, err error) {
	p.wanting.Do(func() { close(p.wanted) })
	select {
	case <-p.done:
	case <-ctx.Done():
		if !isClosed(p.done) {
			return nil, false, ctx.Err()
		}
	}
	if p.panicked != nil {
		panic(p.panicked)
	}
	if p.inv.Header != nil {
		*p.inv.Header = p.header
	}
	if p.inv.Trailer != nil {
		*p.inv.Trailer = p.trailer
	}
	if p.inv.Received != nil {
		*p.inv.Received = p.received
	}
	return p.response, true, p.err
}

// settle notes that the call is over, or was abandoned. When it is both nobody wants what has
// come.
func (p *pending) settle(abandoned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if abandoned {
		p.abandoned = true
	} else {
		p.over = true
	}
	if p.over && (p.abandoned || p.panicked != nil || p.err != nil) {
		p.received.Release()
		p.received = ipc.Attachments{}
	}
}

// Done implements [ipc.Pending].
func (p *pending) Done() bool { return isClosed(p.done) }

// Abandon implements [ipc.Pending].
func (p *pending) Abandon() {
	p.cancel()
	p.settle(true)
}
