package chain

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
)

// Opener opens a stream, as [ipc.StreamCaller.OpenStream] does.
type Opener func(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error)

// Open opens a stream inside of the functions. They run in a goroutine, and next returns when the
// stream is over and whoever has opened it knows.
func (f Funcs) Open(ctx context.Context, inv *ipc.Invocation, attempt int, peer ipc.Peer, o *ipc.StreamOpening, open Opener) (ipc.Stream, error) {
	if len(f) == 0 {
		return open(ctx, inv, o)
	}
	p := &opening{inv: inv, o: o, open: open, opened: make(chan struct{}), call: ipc.Call{
		Method: inv.Method, Stream: true, Attempt: attempt, Peer: peer, Metadata: inv.Metadata, RequestSize: len(o.First),
	}}
	go func() {
		defer p.end()
		p.err = f.run(ctx, &p.call, p.next)
		p.returned = true
	}()
	<-p.opened
	switch {
	case p.stream != nil:
		return p.stream, nil
	case p.panicked != nil:
		panic(p.panicked)
	}
	return nil, p.err
}

// opening is a stream that is opened inside of functions.
type opening struct {
	call ipc.Call
	inv  *ipc.Invocation
	o    *ipc.StreamOpening
	open Opener

	opened chan struct{} // closed when the stream is open, or will not be

	mu   sync.Mutex // held while next runs
	over bool       // the functions have returned; guarded by mu

	// Readable when opened is closed.
	stream   *counted // nil if it could not be opened
	returned bool     // the functions, rather than to panic
	panicked any
	err      error
}

// next is the innermost next.
func (p *opening) next(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
		return ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next for %q after it has returned", p.call.Method.Name)
	case p.stream != nil:
		return ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor has called next twice for a stream of %q that was opened", p.call.Method.Name)
	}
	own, o := *p.inv, *p.o
	own.Metadata = p.call.Metadata
	st := &counted{ended: make(chan struct{}), known: make(chan struct{}), finished: make(chan struct{})}
	o.OnEnd = func(err error) {
		if p.o.OnEnd != nil {
			p.o.OnEnd(err)
		}
		st.end(err)
	}
	var err error
	if st.Stream, err = p.open(ctx, &own, &o); err != nil {
		return err
	}
	p.stream = st
	close(p.opened)
	<-st.ended
	if st.err == nil || IsRemote(st.err) {
		// What has come may not be read yet.
		select {
		case <-st.known:
		case <-ctx.Done():
		}
	}
	if inner, ok := st.Stream.(*counted); ok { // inside of the functions for attempts
		<-inner.finished
	}
	p.call.Sent, p.call.Received = st.sent.items(), st.received.items()
	return st.err
}

// end is called by defer, when the functions have returned or panicked. If the stream was opened
// then a panic goes on.
func (p *opening) end() {
	p.mu.Lock() // next does not run, also not in another goroutine
	p.over = true
	opened := p.stream != nil
	p.mu.Unlock()
	if opened {
		close(p.stream.finished)
		return
	}
	switch {
	case !p.returned:
		if p.panicked = recover(); p.panicked == nil {
			p.err = ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor of %q has ended its goroutine", p.call.Method.Name)
		}
	case p.err == nil:
		p.err = ipc.Errorf(ipc.CodeInternal, "tandem: an interceptor of the stream %q has returned no error, and has not opened it", p.call.Method.Name)
	}
	close(p.opened)
}

// ServeStream runs the handler of a stream inside of the functions for handlers.
func (c *Chain) ServeStream(ctx context.Context, call ipc.Call, st ipc.Stream, serve func(context.Context, *ipc.Call, ipc.Stream) error) error {
	call.Stream = true
	s := &streamServer{chain: c, stream: &counted{Stream: st}, serve: serve}
	_, err := c.Handle.Serve(ctx, call, s)
	return err
}

// streamServer runs the handler of a stream.
type streamServer struct {
	chain  *Chain
	stream *counted
	serve  func(context.Context, *ipc.Call, ipc.Stream) error
}

// Serve implements [Server].
func (s *streamServer) Serve(ctx context.Context, call *ipc.Call) ([]byte, error) {
	var st ipc.Stream = s.stream
	for _, f := range s.chain.Stream { // the innermost is next to the handler
		st = wrap(ctx, f, call, st)
	}
	defer func() { call.Sent, call.Received = s.stream.sent.items(), s.stream.received.items() }()
	return nil, s.serve(ctx, call, st)
}

// OpenStream opens a stream inside of the functions for calls, and of those that wrap streams.
// open opens it, inside of those for attempts.
func (c *Chain) OpenStream(ctx context.Context, inv *ipc.Invocation, peer ipc.Peer, o *ipc.StreamOpening, open Opener) (ipc.Stream, error) {
	st, err := c.Call.Open(ctx, inv, 0, peer, o, open)
	if err != nil || len(c.Stream) == 0 {
		return st, err
	}
	wrapped, opened := false, st
	defer func() {
		if !wrapped { // a function has panicked: nobody gets the stream
			opened.Close()
		}
	}()
	call := &ipc.Call{Method: inv.Method, Stream: true, Peer: peer, Metadata: inv.Metadata, RequestSize: len(o.First)}
	for i := len(c.Stream) - 1; i >= 0; i-- { // the outermost is next to the caller
		st = wrap(ctx, c.Stream[i], call, st)
	}
	wrapped = true
	return st, nil
}

// counted is a stream whose items are counted.
type counted struct {
	ipc.Stream
	sent, received count

	mu    sync.Mutex
	over  bool
	told  bool
	err   error         // why it is over, readable when ended is closed
	ended chan struct{} // closed when it is over; nil on the handler's side
	known chan struct{} // closed when whoever has opened it knows
	// finished is closed when the functions around it have returned.
	finished chan struct{}
}

type count struct{ n, bytes atomic.Int64 }

func (c *count) add(bytes int) {
	c.n.Add(1)
	c.bytes.Add(int64(bytes))
}

func (c *count) items() ipc.Items { return ipc.Items{Count: c.n.Load(), Bytes: c.bytes.Load()} }

// end notes that the stream is over.
func (c *counted) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.err = true, err
	close(c.ended)
	c.settle()
}

// note notes that a method has returned err to whoever has opened the stream, which says that the stream
// is over unless the method's own context has ended. That may just have, while the method has told of
// the end of the stream.
func (c *counted) note(ctx context.Context, err error) {
	if err != nil && c.ended != nil && (ctx.Err() == nil || errors.Is(err, io.EOF) || IsRemote(err)) {
		c.tell()
	}
}

// IsRemote reports whether err is what the other side has said.
func IsRemote(err error) bool {
	var e *ipc.Error
	return errors.As(err, &e) && e.Remote()
}

func (c *counted) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = true
	c.settle()
}

// settle closes known, once, when the stream is over and that was told. c.mu is held.
func (c *counted) settle() {
	if c.over && c.told && !isClosed(c.known) {
		close(c.known)
	}
}

// Send implements [ipc.Stream].
func (c *counted) Send(ctx context.Context, item []byte) error {
	err := c.Stream.Send(ctx, item)
	if err == nil {
		c.sent.add(len(item))
	}
	c.note(ctx, err)
	return err
}

// SendPart implements [ipc.PartStream].
func (c *counted) SendPart(ctx context.Context, b []byte) (n int, err error) {
	if n, err = ipc.SendPart(ctx, c.Stream, b); err == nil {
		c.sent.add(n)
	}
	c.note(ctx, err)
	return n, err
}

// Widen implements [ipc.WideStream].
func (c *counted) Widen(ctx context.Context, n int) {
	if st, ok := c.Stream.(ipc.WideStream); ok {
		st.Widen(ctx, n)
	}
}

// Ended implements [ipc.EndedStream].
func (c *counted) Ended() bool { return ipc.Ended(c.Stream) }

// SendAttached implements [ipc.AttachedStream].
func (c *counted) SendAttached(ctx context.Context, item []byte, a *ipc.Attachments) error {
	err := sendAttached(ctx, c.Stream, item, a)
	if err == nil {
		c.sent.add(len(item))
	}
	c.note(ctx, err)
	return err
}

// SharesMemory implements [ipc.MemoryStream].
func (c *counted) SharesMemory() bool {
	st, ok := c.Stream.(ipc.MemoryStream)
	return ok && st.SharesMemory()
}

// Attachments implements [ipc.AttachedStream].
func (c *counted) Attachments() *ipc.Attachments { return attachmentsOf(c.Stream) }

// Claim implements [ipc.Stream].
func (c *counted) Claim(ctx context.Context, n int) ([]byte, error) {
	b, err := c.Stream.Claim(ctx, n)
	c.note(ctx, err)
	return b, err
}

// Commit implements [ipc.Stream].
func (c *counted) Commit(ctx context.Context, n int) error {
	err := c.Stream.Commit(ctx, n)
	if err == nil && n >= 0 {
		c.sent.add(n)
	}
	c.note(ctx, err)
	return err
}

// Flush implements [ipc.Stream].
func (c *counted) Flush(ctx context.Context) error {
	err := c.Stream.Flush(ctx)
	c.note(ctx, err)
	return err
}

// CloseSend implements [ipc.Stream].
func (c *counted) CloseSend(ctx context.Context) error {
	err := c.Stream.CloseSend(ctx)
	c.note(ctx, err)
	return err
}

// Receive implements [ipc.Stream].
func (c *counted) Receive(ctx context.Context) ([]byte, error) {
	b, err := c.Stream.Receive(ctx)
	if err == nil {
		c.received.add(len(b))
	}
	c.note(ctx, err)
	return b, err
}

// Close implements [ipc.Stream].
func (c *counted) Close() {
	c.Stream.Close()
	if c.ended != nil {
		c.tell()
	}
}
