package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// batch is a session whose requests and notifications wait for each other, and are then
// sent together.
//
// What is gathered is sent under the context of the batch. What one call's context or
// timeout ends is that call alone. A caller that waits for a call of the batch may give
// that up in the middle of sending; what was not sent then stays gathered.
type batch struct {
	session *Session
	ctx     context.Context // of the batch
	from    *requestContext // of the handler that makes it, or nil

	mu       briefLock // futures may be waited for anywhere
	gathered *frames   // nil when the batch is over
	items    []batchItem
	err      error // the first failure of what was gathered
}

// batchItem is what belongs to the frame of the same index in gathered.
type batchItem struct {
	timeout time.Duration
	method  string
}

var (
	_ ipc.Batcher = (*Session)(nil)
	_ ipc.Batcher = (*batch)(nil)
)

// Batch implements [ipc.Batcher].
func (s *Session) Batch(ctx context.Context, f func(ipc.Caller) error) error {
	return s.batch(ctx, f, nil)
}

func (s *Session) batch(ctx context.Context, f func(ipc.Caller) error, from *requestContext) (err error) {
	b := &batch{session: s, ctx: ctx, from: from, gathered: gathers.Get().(*frames), items: make([]batchItem, 0, maxFrames)}
	b.mu.init()
	defer func() {
		if sent := b.close(); err == nil {
			err = sent
		}
	}()
	return f(b)
}

// Codec implements [ipc.Caller].
func (b *batch) Codec() ipc.Codec { return b.session.Codec() }

// Batch implements [ipc.Batcher]: what a batch in a batch sends keeps its place.
func (b *batch) Batch(ctx context.Context, f func(ipc.Caller) error) (err error) {
	defer func() {
		if sent := b.flush(ctx, nil, nil); err == nil {
			err = sent
		}
	}()
	return f(b)
}

// Invoke implements [ipc.Caller]. A call that is waited for sends all before it.
func (b *batch) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	if inv.OneWay {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if b.mu.tryLock() {
			joined := b.join(inv, request)
			if b.mu.unlockSoon(); joined {
				return nil, nil
			}
		}
		meta, err := metaOf(inv)
		if err != nil {
			return nil, err
		}
		f := &drivers.Frame{Kind: drivers.KindNotify, Method: inv.Method.ID, Payload: request, Meta: meta}
		if err := b.session.attach(f, inv.Attached); err != nil {
			return nil, err
		}
		return nil, b.gather(ctx, inv, f)
	}
	if err := b.flush(ctx, nil, nil); err != nil {
		return nil, err
	}
	return b.session.invoke(ctx, inv, request, memory, b.from)
}

// Start implements [ipc.Starter].
func (b *batch) Start(ctx context.Context, inv *ipc.Invocation, request, memory []byte) (ipc.Pending, error) {
	return b.session.start(ctx, inv, request, memory, b, b.from)
}

// OpenStream implements [ipc.StreamCaller]. It sends all before it.
func (b *batch) OpenStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	if err := b.flush(ctx, nil, nil); err != nil {
		return nil, err
	}
	return b.session.openStream(ctx, inv, o, b.from)
}

// join puts a notification into the last frame that was gathered, and returns true, if the
// two may share one. b.mu is held.
func (b *batch) join(inv *ipc.Invocation, request []byte) bool {
	if len(b.items) == 0 || b.gathered == nil || len(inv.Metadata) > 0 || inv.Attached != nil {
		return false
	}
	return b.items[len(b.items)-1].timeout == b.session.timeoutOf(inv) && b.gathered.join(inv.Method.ID, request)
}

// gather takes a frame, or sends it after those that were gathered.
func (b *batch) gather(ctx context.Context, inv *ipc.Invocation, f *drivers.Frame) error {
	if err := b.mu.lock(ctx, nil, nil); err != nil {
		return err
	}
	defer b.mu.unlock()
	timeout := b.session.timeoutOf(inv)
	if f.Kind == drivers.KindNotify && b.join(inv, f.Payload) { // which has no attachments
		return nil // another goroutine had the lock just now
	}
	if b.gathered != nil {
		if !b.gathered.fits(f) {
			// What cannot be sent now is told by whoever it belongs to, or by close.
			_ = b.send(ctx, nil, nil)
		}
		if b.gathered.fits(f) {
			b.gathered.append(f)
			b.items = append(b.items, batchItem{timeout, inv.Method.Name})
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	c := sendContexts.Get().(*sendContext)
	defer sendContexts.Put(c)
	c.frame = *f
	return b.session.send(ctx, c, timeout, inv.Method.Name, b.session.windowOf(f))
}

// windowOf returns the window that a frame counts for.
func (s *Session) windowOf(f *drivers.Frame) *sendWindow {
	if f.Kind == drivers.KindNotify {
		return &s.notificationWindow
	}
	return &s.requestWindow
}

// withdraw takes back the request of a call that was given up. It returns false if that
// was sent. b.mu is held.
func (b *batch) withdraw(tx uint64) bool {
	if b.gathered == nil {
		return false
	}
	for i := range b.gathered.list {
		if f := &b.gathered.list[i]; f.Kind == drivers.KindRequest && f.Tx == tx {
			b.remove(i, i+1)
			return true
		}
	}
	return false
}

// remove forgets what was gathered from index i up to j. b.mu is held.
func (b *batch) remove(i, j int) {
	b.gathered.remove(i, j)
	b.items = slices.Delete(b.items, i, j)
}

// flush sends what was gathered, until ctx or other ends, or it is found that the call c is
// over. other and c may be nil.
func (b *batch) flush(ctx, other context.Context, c *call) error {
	if err := b.mu.lock(ctx, other, c); err != nil {
		return err
	}
	defer b.mu.unlock()
	return b.send(ctx, other, c)
}

// close ends the batch, and returns the first failure of what was gathered.
func (b *batch) close() error {
	_ = b.mu.lock(context.Background(), nil, nil)
	defer b.mu.unlock()
	_ = b.send(b.ctx, nil, nil)
	gathers.Put(b.gathered)
	b.gathered = nil
	return b.err
}

// send sends what was gathered. What cannot be sent fails, unless that is because ctx or
// other has ended and the batch's own context has not: then it stays gathered, and send
// returns that context's error. What the timeouts of some of it end is found when sending
// blocks for so long; if that ends the call own, which may be nil, send returns as well.
// b.mu is held.
func (b *batch) send(ctx, other context.Context, own *call) error {
	if b.gathered == nil || len(b.gathered.list) == 0 {
		return nil
	}
	var blockedSince time.Duration // 0 if nothing has blocked
	for len(b.gathered.list) > 0 {
		shortest := b.shortest()
		if blockedSince != 0 && shortest > 0 {
			shortest = max(shortest-(monotonic()-blockedSince), 1)
		}
		c := sendContexts.Get().(*sendContext)
		n, err := b.session.sendBatch(c.bindAll(ctx, [2]context.Context{b.ctx, other}, shortest), b.gathered.list)
		ranOut, deadline := c.release(), c.deadline
		sendContexts.Put(c)
		if blockedSince == 0 && deadline != 0 {
			blockedSince = deadline - shortest
		}
		b.remove(0, n)
		if err == nil {
			return nil
		}
		var tooLarge *ipc.SizeError
		switch {
		case errors.As(err, &tooLarge):
			b.failItems(0, 1, err)
		case b.ctx.Err() != nil:
			b.failItems(0, len(b.items), b.ctx.Err())
			return b.err
		case ctx.Err() != nil:
			return ctx.Err()
		case other != nil && other.Err() != nil:
			return other.Err()
		case ranOut:
			if b.failOverdue(monotonic() - blockedSince); own != nil && own.done() {
				return nil
			}
		default:
			b.failItems(0, len(b.items), b.session.whyUnsent(ctx, err))
			return b.err
		}
	}
	return nil
}

// shortest returns the shortest timeout of what was gathered, 0 for none.
func (b *batch) shortest() (timeout time.Duration) {
	for i := range b.items {
		if t := b.items[i].timeout; t > 0 && (timeout == 0 || t < timeout) {
			timeout = t
		}
	}
	return timeout
}

// failOverdue fails what has a timeout that is over after sending has been blocked for
// so long.
func (b *batch) failOverdue(blocked time.Duration) {
	for i := 0; i < len(b.items); {
		if t := b.items[i].timeout; t > 0 && t <= blocked {
			b.failItems(i, i+1, TimedOut(b.items[i].method, t))
		} else {
			i++
		}
	}
}

// failItems fails what was gathered from index i up to j with err.
func (b *batch) failItems(i, j int, err error) {
	if i == j {
		return
	}
	for _, f := range b.gathered.list[i:j] {
		if f.Kind != drivers.KindRequest {
			continue
		}
		if c, parked := b.session.calls.take(f.Tx); c != nil {
			c.err = err
			c.finish(parked)
		}
	}
	b.remove(i, j)
	if b.err == nil {
		b.err = err
	}
}

// sendBatch sends frames when their windows have room for them. The first n of them were
// sent.
func (s *Session) sendBatch(ctx context.Context, list []drivers.Frame) (n int, err error) {
	for n < len(list) {
		part := list[n:]
		admitted, err := s.reserveBatch(ctx, part)
		if err != nil {
			return n, err
		}
		sent, err := s.link.SendBatch(ctx, part[:admitted])
		n += sent
		if err != nil {
			for i := sent; i < admitted; i++ {
				s.windowOf(&part[i]).cancel(costOf(&part[i]))
			}
			return n, err
		}
	}
	return n, nil
}

// reserveBatch takes what the first n frames cost from their windows. It waits until there
// is room for one.
func (s *Session) reserveBatch(ctx context.Context, list []drivers.Frame) (n int, err error) {
	var requests, notifications int64
	for i := range list {
		if list[i].Kind == drivers.KindNotify {
			notifications += costOf(&list[i])
		} else {
			requests += costOf(&list[i])
		}
	}
	if s.requestWindow.tryReserve(requests, requests) {
		if s.notificationWindow.tryReserve(notifications, notifications) {
			return len(list), nil
		}
		s.requestWindow.cancel(requests)
	}
	if err := s.windowOf(&list[0]).reserve(ctx, s.lifetime.done, costOf(&list[0])); err != nil {
		return 0, err
	}
	for n = 1; n < len(list) && s.windowOf(&list[n]).tryReserve(costOf(&list[n]), 1); n++ {
	}
	return n, nil
}
