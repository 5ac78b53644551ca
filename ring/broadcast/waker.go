package broadcast

import (
	"runtime"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// To wake a thread takes microseconds of the waker's time, and 64 of them take hundreds. So
// Publish leaves that to a goroutine, the waker, which comes when it is needed and goes when
// there has been nothing to do for a moment. While it is there, Publish does not look at readers at all: what it
// has published is enough of a sign.
//
//	Publish                                      waker
//	store published = pos, in progress   (1)     store state = awake
//	store the record's word              (2)     loop:
//	load state                           (3)       p := load published                  (5)
//	  awake: done                                  new: look at all readers, and ring   (6)
//	  asleep: look at all readers        (4)       nothing new for a while:
//	    one is parked: state from asleep             store state = asleep               (7)
//	    to starting, start the waker                 load published; p and not in       (8)
//	store published = pos                            progress: end. Else state from
//	                                                 asleep to awake, and go on
//
// A reader that is parked has stored so and then found no record. So (2) came later than
// its look, and whoever looks at it after (2) sees that it is parked. Either Publish does, by (4). Or it has found
// the waker awake, by (3), before (7): then (8) finds a newer p, or one in progress, and the waker goes on. It
// looks at readers again after (5) has seen p without "in progress", which comes after (2). The two
// changes of state that depend on what it was keep the wakers to one.
const (
	wakerAsleep   = 0
	wakerStarting = 1 // the goroutine exists, and has not run yet
	wakerAwake    = 2
)

// waker is what Publish and the goroutine share.
type waker struct {
	_      [padding]byte
	state  atomic.Uint32
	run    func()
	direct bool // Publish rings itself: nobody else could run meanwhile
	unseen int  // how often Publish has found the waker starting
	_      [padding]byte
	spin   wait.Spinner // the goroutine's
	_      [padding]byte
}

// maxUnseen is for how many calls Publish waits until the waker has got a processor.
const maxUnseen = 64

// pollEvery is how often the waker spins between two looks at published, which the writer stores to.
const pollEvery = 16

// ring has those readers woken that are parked, after something has been published.
func (w *Writer) ring(peers []*Peer) {
	switch w.waker.state.Load() {
	case wakerAwake:
		return
	case wakerStarting:
		// All processors of this process are busy, perhaps for long.
		if w.waker.unseen++; w.waker.unseen < maxUnseen {
			return
		}
		w.waker.unseen = 0
		if claimParked(peers) {
			w.ringAll()
		}
		return
	}
	if !anyParked(peers) {
		return
	}
	if w.waker.direct {
		claimParked(peers)
		w.ringAll()
		return
	}
	// If this fails, the waker has taken the state back, and sees that Publish is at it.
	if w.waker.state.CompareAndSwap(wakerAsleep, wakerStarting) {
		w.waker.unseen = 0
		go w.waker.run()
	}
}

// wakeReaders is the waker.
func (w *Writer) wakeReaders() {
	k := &w.waker
	k.state.Store(wakerAwake)
	k.spin.End() // of the wait since the waker has gone to sleep
	seen := uint64(inProgress)
	for polls := 0; ; polls++ {
		if polls%pollEvery == 0 {
			if p := atomic.LoadUint64(&w.published); p != seen || p&inProgress != 0 {
				seen = p
				if w.claim() {
					w.ringAll()
				}
				k.spin.End()
				if p&inProgress != 0 {
					runtime.Gosched() // the writer may have lost its processor
					polls = -1
				}
				continue
			}
		}
		if k.spin.Again() {
			continue
		}
		k.spin.Stop()
		// From here on Publish starts another waker, unless this one takes the state back.
		k.state.Store(wakerAsleep)
		if p := atomic.LoadUint64(&w.published); p == seen && p&inProgress == 0 || !k.state.CompareAndSwap(wakerAsleep, wakerAwake) {
			return
		}
		polls = -1
	}
}

// parked reports whether the reader is parked and has not been rung for, by its waiting word v.
func (p *Peer) parked(v uint32) bool {
	return v&stateMask == stateParked && v != atomic.LoadUint32(&p.rung)
}

func anyParked(peers []*Peer) bool {
	for _, p := range peers {
		// SYNC: pairs with Reader.arm.
		if p.parked(atomic.LoadUint32(p.waiting)) {
			return true
		}
	}
	return false
}

// claimParked notes of all readers that are parked that they are rung for, and reports whether there
// are any.
func claimParked(peers []*Peer) (any bool) {
	for _, p := range peers {
		if v := atomic.LoadUint32(p.waiting); p.parked(v) {
			atomic.StoreUint32(&p.rung, v)
			any = true
		}
	}
	return any
}

// claim is claimParked for goroutines other than the writer's.
func (w *Writer) claim() bool {
	w.mu.Lock() // so that Remove waits until it is done
	defer w.mu.Unlock()
	peers := w.peers.Load()
	return peers != nil && claimParked(*peers)
}

// ringAll wakes all readers that are asleep.
func (w *Writer) ringAll() {
	bell := shared.At32(w.seg, offDataBell)
	// SYNC: pairs with Sleeper.Prepare of the readers.
	atomic.AddUint32(bell, 1)
	wait.FutexWake(bell)
}

// quiesce returns when the writer does not use any peer that is no longer in the list.
func (w *Writer) quiesce() {
	// SYNC: pairs with Writer.Publish, which marks published and then loads peers.
	for atomic.LoadUint64(&w.published)&inProgress != 0 {
		runtime.Gosched()
	}
}
