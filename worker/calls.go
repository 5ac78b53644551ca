package worker

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// The states of a pending call. Whoever moves a call out of waiting or parked
// owns its result: the reader that delivers, the caller that gives up, or the
// session that ends.
const (
	callFree uint32 = iota
	callWaiting
	callParked // waiting, and its goroutine sleeps or is about to
	callTaken  // somebody writes the result
	callDone
)

// call is one pending call. Calls are reused; tx tells the uses apart.
type call struct {
	tx    atomic.Uint64
	state atomic.Uint32
	index uint32

	// The result: written in state callTaken, read in callDone.
	response []byte
	err      error

	// wake has a token when the state became callDone or promoted was set,
	// while the call was parked.
	wake  chan struct{}
	timer *time.Timer

	// Guarded by followers.mu.
	next, prev *call
	listed     bool
	promoted   bool
}

// A tx is, from the lowest bit: the side that made it, 1 bit; the index of the
// call in the table, callIndexBits; how often that place was used, the rest.
const (
	callIndexBits = 20
	maxCalls      = 1 << callIndexBits
)

var errTooManyCalls = ipc.Errorf(ipc.CodeResourceExhausted, "tandem: %d calls are pending on one link", maxCalls)

// calls is the table of the pending calls of one session.
type calls struct {
	side uint64 // lowest bit of our txs: 0 for hosts, 1 for workers

	mu      sync.Mutex
	free    []*call
	pending int
	ended   error         // set once: no more calls
	drained chan struct{} // if not nil, closed when pending falls to 0

	// all is replaced, never changed, when it grows, so that readers of the
	// link can look calls up without the lock.
	all atomic.Pointer[[]*call]
}

// add returns a call that waits with a new tx, for a response that will be
// appended to response. From then on that memory is the reader's, for a peer
// may answer what it was not asked yet.
func (t *calls) add(response []byte) (*call, error) {
	t.mu.Lock()
	if t.ended != nil {
		t.mu.Unlock()
		return nil, t.ended
	}
	var c *call
	if n := len(t.free); n > 0 {
		c = t.free[n-1]
		t.free = t.free[:n-1]
	} else if c = t.grow(); c == nil {
		t.mu.Unlock()
		return nil, errTooManyCalls
	}
	t.pending++
	uses := c.tx.Load()>>(1+callIndexBits) + 1
	c.tx.Store(uses<<(1+callIndexBits) | uint64(c.index)<<1 | t.side)
	c.response = response
	c.state.Store(callWaiting)
	t.mu.Unlock()
	return c, nil
}

// grow doubles the table and returns one of its new calls, or nil if it is full.
func (t *calls) grow() *call {
	var old []*call
	if p := t.all.Load(); p != nil {
		old = *p
	}
	if len(old) == maxCalls {
		return nil
	}
	all := make([]*call, max(8, 2*len(old)))
	copy(all, old)
	for i := len(old); i < len(all); i++ {
		all[i] = &call{index: uint32(i), wake: make(chan struct{}, 1)}
	}
	t.all.Store(&all)
	t.free = append(t.free, all[len(old)+1:]...)
	return all[len(old)]
}

// remove ends the use of c, whose result nobody else will touch any more.
func (t *calls) remove(c *call) {
	select {
	case <-c.wake:
	default:
	}
	c.response, c.err = nil, nil
	c.state.Store(callFree)
	t.mu.Lock()
	t.free = append(t.free, c)
	t.pending--
	if t.pending == 0 && t.drained != nil {
		close(t.drained)
		t.drained = nil
	}
	t.mu.Unlock()
}

// take finds the call of this tx and takes it over to write its result. It
// returns nil if there is none, since it was given up or never existed.
func (t *calls) take(tx uint64) (c *call, parked bool) {
	p := t.all.Load()
	if p == nil {
		return nil, false
	}
	index := tx >> 1 & (maxCalls - 1)
	if index >= uint64(len(*p)) || tx&1 != t.side {
		return nil, false
	}
	c = (*p)[index]
	for c.tx.Load() == tx {
		state := c.state.Load()
		if state != callWaiting && state != callParked {
			return nil, false
		}
		if !c.state.CompareAndSwap(state, callTaken) {
			continue
		}
		if c.tx.Load() == tx {
			return c, state == callParked
		}
		// The place was used anew between the two looks. Whoever finds the
		// state taken waits until it is not.
		c.state.Store(state)
	}
	return nil, false
}

// finish publishes the result that was written into a taken call.
func (c *call) finish(parked bool) {
	c.state.Store(callDone)
	if parked {
		c.notify()
	}
}

func (c *call) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// settled reports whether the result is there, and waits for it if somebody is
// writing it just now.
func (c *call) settled() bool {
	for {
		switch c.state.Load() {
		case callDone:
			return true
		case callTaken:
			runtime.Gosched()
		default:
			return false
		}
	}
}

// park announces that the caller sleeps. It returns false if the result is there.
func (c *call) park() bool {
	for !c.state.CompareAndSwap(callWaiting, callParked) && c.state.Load() != callParked {
		if c.settled() {
			return false
		}
	}
	return true
}

// sleep waits for wake. It returns an error when ctx ends or the deadline, if
// there is one, passes.
func (c *call) sleep(ctx context.Context, deadline time.Time) error {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		if c.timer == nil {
			c.timer = time.NewTimer(time.Until(deadline))
		} else {
			c.timer.Reset(time.Until(deadline))
		}
		defer c.timer.Stop()
		timeout = c.timer.C
	}
	select {
	case <-c.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout:
		return errLimit
	}
}

// giveUp takes the call back from whoever might answer it. It returns false if
// the result is there after all.
func (c *call) giveUp() bool {
	for {
		state := c.state.Load()
		if state == callWaiting || state == callParked {
			if c.state.CompareAndSwap(state, callTaken) {
				return true
			}
			continue
		}
		if c.settled() {
			return false
		}
	}
}

// end fails all pending calls, and those that are added later, with err.
func (t *calls) end(err error) {
	t.mu.Lock()
	t.ended = err
	t.mu.Unlock()
	p := t.all.Load()
	if p == nil {
		return
	}
	for _, c := range *p {
		for {
			state := c.state.Load()
			if state == callFree || state == callDone {
				break
			}
			if state != callTaken && c.state.CompareAndSwap(state, callTaken) {
				c.err = err
				c.finish(state == callParked)
				break
			}
			runtime.Gosched()
		}
	}
}

// idle returns a channel that is closed when no call is pending.
func (t *calls) idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drained == nil {
		c := make(chan struct{})
		if t.pending == 0 {
			close(c)
			return c
		}
		t.drained = c
	}
	return t.drained
}

// followers are the parked calls, in the order in which they parked. One of
// them is promoted to read when the reader leaves.
type followers struct {
	mu          sync.Mutex
	first, last *call
}

func (f *followers) add(c *call) {
	f.mu.Lock()
	c.listed, c.promoted = true, false
	c.prev, c.next = f.last, nil
	if f.last != nil {
		f.last.next = c
	} else {
		f.first = c
	}
	f.last = c
	f.mu.Unlock()
}

// remove takes c off the list. It returns true if c was promoted, and so holds
// the reader role.
func (f *followers) remove(c *call) (promoted bool) {
	f.mu.Lock()
	if c.listed {
		f.unlink(c)
	}
	promoted = c.promoted
	c.promoted = false
	f.mu.Unlock()
	return promoted
}

func (f *followers) unlink(c *call) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		f.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		f.last = c.prev
	}
	c.next, c.prev, c.listed = nil, nil, false
}

// promote gives the reader role to one follower that still waits. It returns
// false if there is none.
func (f *followers) promote() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := f.first; c != nil; c = f.first {
		f.unlink(c)
		if c.state.Load() == callParked {
			c.promoted = true
			c.notify()
			return true
		}
	}
	return false
}
