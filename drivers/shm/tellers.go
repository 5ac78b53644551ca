package shm

import (
	"sync"
	"sync/atomic"
)

// tellers are goroutines that tell the peer something. None starts after wait.
type tellers struct {
	running atomic.Int64
	mu      sync.Mutex
	closed  bool
	all     sync.WaitGroup
}

// start starts one, and returns whether there are no more of them than a correct peer causes.
func (t *tellers) start(tell func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return true
	}
	if t.running.Add(1) > maxTellers {
		t.running.Add(-1)
		return false
	}
	t.all.Go(func() {
		defer t.running.Add(-1)
		tell()
	})
	return true
}

func (t *tellers) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.all.Wait()
}

// maxTellers is one for each place that the peer may say to have released, and as many for what this
// side has to say, and some.
const maxTellers = 2*maxPlaces + 4*maxRegions
