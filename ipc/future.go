package ipc

import (
	"context"
	"errors"
	"sync"
)

// Starter is a [Caller] that can have many calls in flight without a goroutine for
// each.
type Starter interface {
	Caller
	// Start is the first half of Invoke: it returns when the request was sent.
	// What it returns has to be waited for or abandoned.
	Start(ctx context.Context, call Invocation) (Pending, error)
}

// Pending is a call that was started. It is for one goroutine at a time.
type Pending interface {
	// Wait is the second half of Invoke, within the context and the timeout of Start;
	// the timeout counts from there. If ctx ends first, over is false, err is the error
	// of ctx, and the call goes on: Wait may be called again. Otherwise the call is
	// over, and neither Wait nor Abandon may be called any more.
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
	// Batch is what [Batch] says.
	Batch(ctx context.Context, f func(Caller) error) error
}

// Batch calls f with a caller whose notifications ([Method.Notify]) and calls
// ([Method.Go]) are sent together, which takes far less time for each than sending
// them one by one. They are on their way when Batch returns, or when they
// have become many, or when f waits for one of them, or makes an ordinary call. So f
// should do nothing else that takes time.
//
// What f is given is c's, and must not be used after f has returned; with a Caller
// that is not a [Batcher] it is c itself. Batch returns the error of f, or else why
// what was gathered could not be sent.
func Batch(ctx context.Context, c Caller, f func(Caller) error) error {
	if b, ok := c.(Batcher); ok {
		return b.Batch(ctx, f)
	}
	return f(c)
}

// ErrAbandoned is what Wait of a [Future] returns after Abandon.
var ErrAbandoned = errors.New("tandem: the call was abandoned")

// Future is a call in flight. It is safe for concurrent use.
type Future[Res any] struct {
	method string
	codec  Codec

	mu      sync.Mutex    // guards the following
	waited  bool          // by a goroutine
	free    chan struct{} // closed when waited becomes false, if anybody waits for that
	pending Pending       // nil when the call is over
	out     *buffer
	res     Res
	err     error
}

// Go starts a call and returns without waiting for its result. Many calls can be in
// flight from one goroutine, and [Batch] sends them together. Requests arrive in
// the order in which one goroutine sent them. A Future has to be waited for or
// abandoned: it holds a place among the calls of its link.
//
// ctx and timeouts bound the whole call. Errors are those of [Method.Call] for requests
// that could not be sent; all others come from Wait.
func (m *Method[Req, Res]) Go(ctx context.Context, c Caller, req Req, opts ...CallOption) (*Future[Res], error) {
	var inv Invocation
	codec, in, err := m.encode(ctx, &inv, c, req, opts)
	if err != nil {
		return nil, err
	}
	defer putBuffer(in)
	f := &Future[Res]{method: m.info.Name, codec: codec}
	if codec != Raw {
		f.out = getBuffer()
		inv.Response = f.out.b
	}
	if s, ok := c.(Starter); ok {
		f.pending, err = s.Start(ctx, inv)
	} else {
		inv.Request = append([]byte(nil), inv.Request...)
		f.pending = goInvoke(ctx, c, inv)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Wait waits for the result, until ctx ends at the latest: then it returns ctx.Err(),
// and the call goes on and can be waited for again. When the call is over Wait returns
// the same each time. Errors are those of [Method.Call], and [ErrAbandoned].
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
	if f.res, f.err = Unmarshal[Res](f.codec, response); f.err != nil {
		f.err = Errorf(CodeInternal, "decode the response of %q: %w", f.method, f.err)
	}
	if f.out != nil {
		f.out.b = response
		putBuffer(f.out)
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

// Done reports whether Wait would return at once, as far as is known without
// reading the link. It returns false while another goroutine waits.
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
}

func goInvoke(ctx context.Context, c Caller, inv Invocation) *invoked {
	p := &invoked{done: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		defer p.cancel()
		p.response, p.err = c.Invoke(ctx, inv)
	}()
	return p
}

// Wait implements [Pending].
func (p *invoked) Wait(ctx context.Context) ([]byte, bool, error) {
	select {
	case <-p.done:
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
func (p *invoked) Abandon() { p.cancel() }
