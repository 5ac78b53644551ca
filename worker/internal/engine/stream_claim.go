package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// streamClaim is the memory in which an item is being built. It lies with the items that are
// gathered, in the link if the item is large and the link can do that, or else in memory of
// the stream's own.
type streamClaim struct {
	b      []byte
	large  bool
	inLink bool
	own    []byte
}

// Claim implements [ipc.Stream]. The stream's lock is held until Commit.
func (st *Stream) Claim(ctx context.Context, n int) ([]byte, error) {
	if n < 0 {
		panic(fmt.Sprintf("tandem: claim of %d bytes", n))
	}
	o := &st.out
	if !o.lock.tryLock() {
		if err := o.lock.lock(ctx, st.ctx, nil); err != nil {
			return nil, st.whyNot(ctx, err)
		}
	}
	b, err := st.claim(ctx, n)
	if err != nil {
		o.lock.unlockSoon()
		return nil, err
	}
	o.claim.b = b
	return b, nil
}

// claim is Claim with the lock.
func (st *Stream) claim(ctx context.Context, n int) ([]byte, error) {
	o, s := &st.out, st.session
	if o.closed || o.gone.Load() {
		return nil, st.notSendable()
	}
	if span := drivers.ItemSpan(n); span <= s.maxGathered {
		if o.buffer == nil || len(o.buffer.b)+span > s.maxGathered {
			if err := st.makeRoom(ctx); err != nil {
				return nil, err
			}
		}
		at := len(o.buffer.b) + drivers.ItemHeader
		return o.buffer.b[at : at+n : at+n], nil
	}
	if n > s.maxPayload {
		return nil, &ipc.SizeError{Size: n, Limit: s.maxPayload}
	}
	if err := st.sendGathered(ctx); err != nil {
		return nil, err
	}
	if s.claimer != nil && n <= drivers.MaxPiece && st.ended() == nil {
		b, err := st.claimLink(ctx, n)
		if b != nil || err != nil {
			o.claim.large = err == nil
			return b, err
		}
	}
	o.claim.large = true
	o.claim.own = slices.Grow(o.claim.own[:0], n)
	return o.claim.own[:n:n], nil
}

// claimLink claims memory of the link for an item. It returns nil if the link, or the peer's
// window, has no room for the item in one piece.
func (st *Stream) claimLink(ctx context.Context, n int) ([]byte, error) {
	o := &st.out
	need := int64(drivers.ItemSpan(n))
	if need > max(o.most/2, drivers.InitialStreamWindow/2) {
		return nil, nil
	}
	if o.granted.Load()-o.sent < need {
		if err := st.awaitWindow(ctx, need); err != nil {
			return nil, err
		}
	}
	c := sendContexts.Get().(*sendContext)
	o.frame.Method = drivers.ItemWhole
	if st.handler != nil && o.frames == 0 {
		st.addHeader()
	}
	b, err := st.session.claimer.Claim(c.bindAll(ctx, [2]context.Context{st.ctx}, 0), &o.frame, n)
	c.release()
	sendContexts.Put(c)
	var tooLarge *ipc.SizeError
	switch {
	case err == nil:
		o.claim.inLink = true
		return b, nil
	case errors.As(err, &tooLarge):
		return nil, nil
	}
	return nil, st.whyNot(ctx, err)
}

// Commit implements [ipc.Stream].
func (st *Stream) Commit(ctx context.Context, n int) error {
	o := &st.out
	if o.claim.b == nil {
		if o.gone.Load() { // the handler has panicked meanwhile
			return st.notSendable()
		}
		panic("tandem: commit without a claim")
	}
	if n > len(o.claim.b) {
		panic(fmt.Sprintf("tandem: commit of %d bytes of %d", n, len(o.claim.b)))
	}
	err := st.commit(ctx, n)
	o.lock.unlockSoon()
	return err
}

// commit is Commit with the lock, which it leaves held.
func (st *Stream) commit(ctx context.Context, n int) (err error) {
	o, s := &st.out, st.session
	b, large, inLink := o.claim.b, o.claim.large, o.claim.inLink
	o.claim.b, o.claim.large, o.claim.inLink = nil, false, false
	switch {
	case !large && n >= 0:
		o.buffer.b = drivers.CloseItem(o.buffer.b, n)
		return st.added(ctx, drivers.ItemSpan(n))
	case !large:
		if o.count == 0 {
			st.freeGathered()
		}
	case inLink && n >= 0:
		s.claimer.Commit(n)
		st.transmitted(int64(drivers.ItemSpan(n)))
	case inLink:
		s.claimer.Abort()
	case n >= 0:
		err = st.sendLarge(ctx, b[:n])
	}
	if cap(o.claim.own) > maxKept {
		o.claim.own = nil
	}
	return err
}

// claimGrace is how long another goroutine of a handler that has panicked may take to commit.
const claimGrace = 100 * time.Millisecond

// leaveClaim ends the claim that a handler has left when it panicked, if there is one: while it
// lasts the stream cannot end, and if it is in the link nobody can send.
func (st *Stream) leaveClaim() {
	o := &st.out
	if !o.lock.tryLock() {
		ctx, cancel := context.WithTimeout(context.Background(), claimGrace)
		defer cancel()
		if o.lock.lock(ctx, nil, nil) != nil {
			if o.claim.b == nil {
				return // another goroutine waits to send its item
			}
			if !o.claim.large { // the memory is not used again: who knows who has it
				kept := gatherBuffers.Get().(*gatherBuffer)
				kept.b = append(kept.b[:0], o.buffer.b...)
				o.buffer = kept
			}
			o.claim.own = nil
			_ = st.commit(ctx, -1) // which sends nothing
		}
	}
	o.lock.unlock()
}
