package engine

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// The states of a pending call. The goroutine that moves a call out of waiting or
// parked owns its result: the reader that delivers the answer, the caller that gives
// up, or the session that ends.
const (
	callFree    uint64 = iota
	callWaiting        // its goroutine runs
	callParked         // its goroutine sleeps or is about to
	callTaken          // somebody writes the result
	callDone
	callState uint64 = 7
)

// call is one pending call. Calls are used again; word tells the uses apart.
type call struct {
	// word is a count of the uses, times 8, plus a state. One compare-and-swap on it
	// finds out whether an answer is for this use, and takes the call.
	word  atomic.Uint64
	index uint64
	tx    uint64 // of this use; its caller's

	// The result: written in state callTaken, read in callDone.
	response []byte
	err      error
	meta     *drivers.Metadata // of the answer, or nil
	attached *ipc.Attachments  // of the answer, or nil

	// wake has a token when the state became callDone, or the call was handed the reader
	// state, while it was parked.
	wake   chan struct{}
	parked bool // in this use, so wake may have a token

	// Its time: see deadlines.go.
	timer    *time.Timer
	deadline atomic.Int64  // by monotonic, 0 until somebody asks
	swept    atomic.Int64  // the timeout, in ns, if the sweeper looks after it
	expired  atomic.Uint64 // the use that the sweeper has found to be over
	// The use that the sweeper has seen, and when it ends; guarded by
	// pendingCalls.expiring.
	sweptUse   uint64
	sweptUntil time.Duration

	send  sendContext // of its request
	async asyncCall
	// also is a second context that ends the waiting, nil if there is none.
	also context.Context
	// soon says that its goroutine will wait again at once, for the next items of a stream.
	soon bool
	// unattended says that the call was started and nobody waits for it.
	unattended atomic.Bool

	// Its place among the waiters; guarded by waiters.mu.
	next, prev *call
	listed     bool
	promoted   bool // the call was handed the reader state
}

// A tx is, from the lowest bit: the side that made it, 1 bit; the index of the
// call in the table, callIndexBits; the count of its uses, the rest.
const (
	callIndexBits = 20
	maxCalls      = 1 << callIndexBits
	txUses        = 1 + callIndexBits
)

var errTooManyCalls = ipc.Errorf(ipc.CodeResourceExhausted, "tandem: %d calls are pending on one link", maxCalls)

// pendingCalls is the table of the pending calls of one session.
type pendingCalls struct {
	side uint64 // lowest bit of our txs: 0 for hosts, 1 for workers

	// spare is a free call that is on no list, so that a lone caller needs no lock.
	spare atomic.Pointer[call]

	expiring sync.Mutex // held by the sweeper while it looks

	mu    sync.Mutex
	free  []*call
	ended atomic.Pointer[error] // set once: no more calls

	// all is replaced, never changed, when it grows, so that readers of the
	// link can look calls up without the lock.
	all atomic.Pointer[[]*call]
}

// register returns a call that waits, and its tx. The result may be appended to
// response. From now on an answer can come, even before the request was sent: the
// peer may guess the tx.
func (t *pendingCalls) register(response []byte) (c *call, tx uint64, err error) {
	if c = t.spare.Swap(nil); c == nil {
		if c = t.grow(); c == nil {
			return nil, 0, errTooManyCalls
		}
	}
	uses := (c.word.Load()>>3 + 1) & (1<<(64-txUses) - 1)
	c.response = response
	c.word.Store(uses<<3 | callWaiting)
	// failAll sets ended and then looks at all calls, so one of us sees the other.
	if ended := t.ended.Load(); ended != nil {
		c.giveUp()
		t.release(c)
		return nil, 0, *ended
	}
	c.tx = uses<<txUses | c.index<<1 | t.side
	return c, c.tx, nil
}

// grow takes a call from the list, and makes new ones if there is none. It
// returns nil if the table is full.
func (t *pendingCalls) grow() *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		c := t.free[n-1]
		t.free = t.free[:n-1]
		return c
	}
	var old []*call
	if p := t.all.Load(); p != nil {
		old = *p
	}
	if len(old) == maxCalls {
		return nil
	}
	n := 1 // many clients have one caller
	if len(old) > 0 {
		n = max(8, 2*len(old))
	}
	all := make([]*call, n)
	copy(all, old)
	for i := len(old); i < len(all); i++ {
		all[i] = &call{index: uint64(i), wake: make(chan struct{}, 1)}
	}
	t.all.Store(&all)
	t.free = append(t.free, all[len(old)+1:]...)
	return all[len(old)]
}

// release ends the use of c, whose result nobody else will touch any more.
func (t *pendingCalls) release(c *call) {
	if c.parked {
		c.parked = false
		select {
		case <-c.wake:
		default:
		}
	}
	c.response, c.err, c.also = nil, nil, nil
	if c.meta != nil {
		c.meta = nil
	}
	if c.attached != nil {
		c.attached.Release() // nobody wants them
		c.attached.Recycle()
		c.attached = nil
	}
	if c.deadline.Load() != 0 {
		c.deadline.Store(0)
	}
	if c.swept.Load() != 0 {
		c.swept.Store(0)
	}
	if c.unattended.Load() {
		c.unattended.Store(false)
	}
	if c.state() == callDone && t.spare.CompareAndSwap(nil, c) {
		return // a spare call in this state is free
	}
	c.word.Store(c.word.Load() &^ callState) // callFree is 0
	t.mu.Lock()
	t.free = append(t.free, c)
	t.mu.Unlock()
}

// take finds the call of this tx and takes it over to write its result. It
// returns nil if there is none, since it was given up or never existed.
func (t *pendingCalls) take(tx uint64) (c *call, parked bool) {
	p := t.all.Load()
	if p == nil {
		return nil, false
	}
	index := tx >> 1 & (maxCalls - 1)
	if index >= uint64(len(*p)) || tx&1 != t.side {
		return nil, false
	}
	c = (*p)[index]
	use := tx >> txUses << 3
	for {
		word := c.word.Load()
		if word != use|callWaiting && word != use|callParked {
			return nil, false
		}
		if c.word.CompareAndSwap(word, use|callTaken) {
			return c, word&callState == callParked
		}
	}
}

// takeOwn is take for the call of the reader itself, if tx is its tx: the result is
// nobody else's business.
func (c *call) takeOwn(tx uint64) bool {
	word := c.word.Load()
	return c.tx == tx && word&callState == callWaiting && c.word.CompareAndSwap(word, word&^callState|callDone)
}

// finish publishes the result that was written into a taken call.
func (c *call) finish(parked bool) {
	c.word.Store(c.word.Load()&^callState | callDone)
	if parked {
		c.notify()
	}
}

// givenUp reports whether the context of the caller, or that of the call itself, has
// ended.
func (c *call) givenUp(ctx context.Context) bool {
	return ctx.Err() != nil || c.also != nil && c.also.Err() != nil
}

func (c *call) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *call) state() uint64 { return c.word.Load() & callState }

// done reports whether the result is there.
func (c *call) done() bool { return c.state() == callDone }

// settled reports whether the result is there, and waits for it if somebody is
// writing it just now.
func (c *call) settled() bool {
	for {
		switch c.state() {
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
	c.parked = true
	for {
		word := c.word.Load()
		if word&callState == callParked {
			return true
		}
		if word&callState == callWaiting && c.word.CompareAndSwap(word, word&^callState|callParked) {
			return true
		}
		if c.settled() {
			return false
		}
	}
}

// giveUp takes the call back, so that nobody can answer it any more. It returns false if
// the result is there after all.
func (c *call) giveUp() bool {
	for {
		word := c.word.Load()
		if state := word & callState; state == callWaiting || state == callParked {
			if c.word.CompareAndSwap(word, word&^callState|callTaken) {
				return true
			}
			continue
		}
		if c.settled() {
			return false
		}
	}
}

// failAll fails all pending calls, and those that are registered later, with err.
func (t *pendingCalls) failAll(err error) {
	t.ended.Store(&err)
	t.mu.Lock() // so that the table does not grow
	defer t.mu.Unlock()
	p := t.all.Load()
	if p == nil {
		return
	}
	for _, c := range *p {
		for {
			word := c.word.Load()
			state := word & callState
			if state == callFree || state == callDone {
				break
			}
			if state != callTaken && c.word.CompareAndSwap(word, word&^callState|callTaken) {
				c.err = err
				c.finish(state == callParked)
				break
			}
			runtime.Gosched()
		}
	}
}

// pending counts the calls in use. It leaves out those that are over and that nobody
// waits for, for nobody may ever.
func (t *pendingCalls) pending() int {
	n := 0
	if p := t.all.Load(); p != nil {
		for _, c := range *p {
			// SYNC: pairs with asyncCall.Wait, which stores unattended and then loads the
			// state: it does not read the link when that is done.
			if state := c.state(); state != callFree && (state != callDone || c != t.spare.Load() && !c.unattended.Load()) {
				n++
			}
		}
	}
	return n
}
