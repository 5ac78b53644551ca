package broadcast

import (
	"runtime"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// ring wakes the readers that are parked, after something has been published.
func (w *Writer) ring(peers []*Peer) {
	parked := false
	for _, p := range peers {
		if v := atomic.LoadUint32(p.waiting); v&stateMask == stateParked && v != atomic.LoadUint32(&p.rung) {
			atomic.StoreUint32(&p.rung, v)
			parked = true
		}
	}
	if parked {
		w.ringAll()
	}
}

// ringAll wakes all readers that are parked.
func (w *Writer) ringAll() {
	bell := shared.At32(w.seg, offDataBell)
	// SYNC: pairs with sleeper.prepare of the readers.
	atomic.AddUint32(bell, 1)
	futexWake(bell)
}

// quiesce returns when nobody uses a peer that is no longer in the list.
func (w *Writer) quiesce() {
	// SYNC: pairs with Writer.Publish, which stores ringing and then loads peers.
	for atomic.LoadUint64(&w.ringing) != 0 {
		runtime.Gosched()
	}
}
