package ipc

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// Starter is a [Caller] that can have many calls in flight without a goroutine for
// each.
type Starter interface {
	Caller
	// Start is the first half of Invoke: it returns when the request was sent or copied.
	// What it returns has to be waited for or abandoned.
	Start(ctx context.Context, call *Invocation, request, memory []byte) (Pending, error)
}

// Pending is a call that was started. It is for one goroutine at a time.
type Pending interface {
	// Wait is the second half of Invoke. The context and the timeout of Start bound the
	// call, and the timeout counts from there. If ctx ends before the call, over is
	// false, err is ctx.Err(), and the call goes on: Wait may be called again.
	// Otherwise the call is over, and neither Wait nor Abandon may be called any more.
	Wait(ctx context.Context) (response []byte, over bool, err error)
	// Done reports whether Wait would return at once, as far as is known: an
	// answer may have come that nobody has read.
	Done() bool
	// Abandon takes the place of Wait: it gives the call up.
	Abandon()
}

// Batcher is a [Caller] that can send many requests at once.
type Batcher interface {
	Caller
	// Batch does what the function [Batch] says.
	Batch(ctx context.Context, f func(Caller) error) error
}

// Batch calls f with a caller that sends notifications ([Method.Notify]) and calls
// ([Method.Go]) together, which takes far less time for each than sending them one by
// one. It sends them when Batch returns, when there are many, when f waits for one of
// them, and when f makes an ordinary call. So f should do nothing else that takes time.
//
// The context or the timeout of one call ends that call alone. ctx bounds the sending
// of all.
//
// f must not use the caller after it has returned. With a Caller that is not a
// [Batcher], f gets c itself, and nothing is sent together.
//
// Batch returns the error of f. If that is nil, it returns the first error of a call or
// notification that could not be sent.
func Batch(ctx context.Context, c Caller, f func(Caller) error) error {
	if b, ok := c.(Batcher); ok {
		return b.Batch(ctx, f)
	}
	return f(c)
}

// ErrAbandoned is what Wait of a [Future] returns after Abandon.
var ErrAbandoned = errors.New("tandem: the call was abandoned")

// Future is a call that [Method.Go] has started. It is safe for concurrent use.
type Future[Res any] struct {
	method   string
	codec    Codec
	carries  bool
	received *Attachments // came with the response

	mu      sync.Mutex    // guards the following
	waited  bool          // by a goroutine
	free    chan struct{} // closed when waited becomes false, if anybody waits for that
	pending Pending       // nil when the call is over
	out     *scratch
	res     Res
	err     error
}

// Go starts a call and returns without waiting for its result. So one goroutine can
// have many calls in flight, and [Batch] sends them together. A client's requests
// arrive in the order in which one goroutine sent them. Each Future has to be waited
// for or abandoned: it holds a place among the calls of its link.
//
// Go waits while the receiver has as many requests as it takes. ctx and the timeout
// bound the whole call, also while nobody waits for the Future. If the request cannot be
// sent, Go returns an error as [Method.Call] does; all other errors come from Wait.
func (m *Method[Req, Res]) Go(ctx context.Context, c Caller, req Req, opts ...CallOption) (*Future[Res], error) {
	m.check(ctx, c)
	codec := m.Codec(c.Codec())
	request, in, err := m.encode(codec, req)
	if err != nil {
		return nil, err
	}
	defer putScratch(in)
	f := &Future[Res]{method: m.call.Method.Name, codec: codec, carries: m.carries}
	var memory []byte
	if codec != Raw {
		f.out = getScratch()
		memory = f.out.b
	}
	call := m.call.with(opts)
	if m.carries {
		own, err := newAttachedCall(call, req)
		if err != nil {
			return nil, err
		}
		call, f.received = &own.Invocation, &own.received
	}
	if s, ok := c.(Starter); ok {
		f.pending, err = s.Start(ctx, call, request, memory)
	} else {
		f.pending, err = goInvoke(ctx, c, call, append([]byte(nil), request...), memory)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Wait waits for the result. If ctx ends before the call is over, Wait returns ctx.Err();
// the call goes on, and Wait can be called again. When the call is over, Wait returns
// the same each time. Its errors are those of [Method.Call], and [ErrAbandoned].
func (f *Future[Res]) Wait(ctx context.Context) (Res, error) {
	if err := f.lock(ctx); err != nil {
		return *new(Res), err
	}
	defer f.unlock()
	if f.pending == nil {
		return f.res, f.err
	}
	response, over, err := f.pending.Wait(ctx)
	if !over {
		return *new(Res), err
	}
	f.setResult(response, err)
	return f.res, f.err
}

// setResult ends the call with a response or an error. f is locked.
func (f *Future[Res]) setResult(response []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = nil
	if f.err = err; err != nil {
		return
	}
	if raw, ok := any(&f.res).(*[]byte); ok && f.codec == Raw {
		*raw = response
		return
	}
	if f.res, f.err = Unmarshal[Res](f.codec, response); f.err == nil && f.carries {
		f.err = give(f.received, &f.res)
	}
	if f.err != nil {
		f.received.Release()
		f.err = notDecoded(f.method, f.err)
	}
	if f.out != nil {
		f.out.b = response
		putScratch(f.out)
		f.out = nil
	}
}

// lock waits until no other goroutine waits for the call, or ctx ends.
func (f *Future[Res]) lock(ctx context.Context) error {
	for {
		f.mu.Lock()
		if !f.waited {
			f.waited = true
			f.mu.Unlock()
			return nil
		}
		if f.free == nil {
			f.free = make(chan struct{})
		}
		free := f.free
		f.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Future[Res]) unlock() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited = false
	if f.free != nil {
		close(f.free)
		f.free = nil
	}
}

// Done reports whether Wait would return at once. It does not read the link, so it may
// return false though the answer has arrived. It also returns false while another
// goroutine waits.
func (f *Future[Res]) Done() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending == nil || !f.waited && f.pending.Done()
}

// Abandon gives the call up, if it is not over: the context of its handler ends,
// and its answer is dropped. If another goroutine waits, Abandon waits with it.
func (f *Future[Res]) Abandon() {
	_ = f.lock(context.Background()) // which does not end
	defer f.unlock()
	if f.pending != nil {
		f.pending.Abandon()
		f.setResult(nil, ErrAbandoned)
	}
}

// invoked is a call of a [Caller] that is no [Starter]: it has a goroutine.
type invoked struct {
	cancel   context.CancelFunc
	done     chan struct{}
	response []byte
	err      error
	over     atomic.Bool // it was abandoned, or has ended

	// The metadata of the answer, and what wants it: after Abandon nobody does, though the
	// call may go on for a moment.
	header, trailer Metadata
	received        Attachments
	call            *Invocation
}

func goInvoke(ctx context.Context, c Caller, call *Invocation, request, memory []byte) (Pending, error) {
	p := &invoked{done: make(chan struct{}), call: call}
	attached, err := call.Attached.hold() // the caller may release its own when Go has returned
	if err != nil {
		return nil, Errorf(CodeInvalidArgument, "encode the request of %q: %w", call.Method.Name, err)
	}
	ctx, p.cancel = context.WithCancel(ctx)
	if call.Header != nil || call.Trailer != nil || call.Received != nil || attached != nil {
		own := *call
		own.Attached = attached
		own.Header, own.Trailer = &p.header, &p.trailer
		if own.Received != nil {
			own.Received = &p.received
		}
		call = &own
	}
	go func() {
		defer p.cancel()
		p.response, p.err = c.Invoke(ctx, call, request, memory)
		attached.releaseBuffers()
		if p.over.CompareAndSwap(false, true) {
			close(p.done)
			return
		}
		p.received.Release() // nobody wants it
		close(p.done)
	}()
	return p, nil
}

// Wait implements [Pending].
func (p *invoked) Wait(ctx context.Context) ([]byte, bool, error) {
	select {
	case <-p.done:
		if p.call.Header != nil {
			*p.call.Header = p.header
		}
		if p.call.Trailer != nil {
			*p.call.Trailer = p.trailer
		}
		if p.call.Received != nil {
			*p.call.Received = p.received
		}
		return p.response, true, p.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// Done implements [Pending].
func (p *invoked) Done() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Abandon implements [Pending].
func (p *invoked) Abandon() {
	p.cancel()
	if !p.over.CompareAndSwap(false, true) {
		p.received.Release()
	}
}
