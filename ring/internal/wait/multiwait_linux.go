package wait

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// multiWaitSize is the largest number of sleepers for one futex_waitv: the
	// kernel's limit, less the word that announces new sleepers.
	multiWaitSize = 127
	// maxIdleReturns is how often in a row futex_waitv may return although
	// nothing has happened, as after a signal.
	maxIdleReturns = 8
)

// sysFutexWaitV is the system call. Tests replace it.
var sysFutexWaitV = futexWaitMany

// multiWaiters are all that run. They come and go with their sleepers.
var multiWaiters struct {
	mu          sync.Mutex
	all         []*multiWaiter
	unsupported bool // the kernel has no futex_waitv: never tried again
}

// multiWaiter is a goroutine, and so a thread, that sleeps in futex_waitv for many
// sleepers.
type multiWaiter struct {
	// added changes when a sleeper joins. It is one of the words that are slept on.
	added    uint32
	sleepers []*multiSleeper               // guarded by multiWaiters.mu
	words    [multiWaitSize + 1]futexWaitV // added, then the sleepers' words in their order
}

// multiSleeper is a sleeper without a thread. Its memory stays mapped until done is
// closed.
type multiSleeper struct {
	word   *uint32
	value  uint32
	done   chan struct{}
	failed bool // futex_waitv has failed; set before done is closed
}

// multiWait is blockOn without a thread of its own. It returns false if futex_waitv
// fails, or in a synctest bubble: the caller then has to sleep by itself.
func multiWait(word *uint32, value uint32) bool {
	if bubbled() {
		return false
	}
	s := &multiSleeper{word: word, value: value, done: make(chan struct{})}
	multiWaiters.mu.Lock()
	if multiWaiters.unsupported {
		multiWaiters.mu.Unlock()
		return false
	}
	i := slices.IndexFunc(multiWaiters.all, func(w *multiWaiter) bool { return len(w.sleepers) < multiWaitSize })
	if i < 0 {
		i = len(multiWaiters.all)
		w := new(multiWaiter)
		multiWaiters.all = append(multiWaiters.all, w)
		go w.run()
	}
	w := multiWaiters.all[i]
	w.sleepers = append(w.sleepers, s)
	// SYNC: pairs with the load in multiWaiter.collect, under the same lock: the
	// sleep that run begins without s does not begin, or is woken.
	atomic.AddUint32(&w.added, 1)
	// Under the lock, so that run never wakes later than it sees s.
	futexWakePrivate(&w.added)
	multiWaiters.mu.Unlock()
	<-s.done
	return !s.failed
}

// run sleeps for the sleepers until there are none, or futex_waitv fails.
//
// A failing call returns at once, so it is not repeated: all sleepers go to threads
// of their own, where plain FUTEX_WAIT may still work. ENOSYS and EPERM are final:
// the kernel has no futex_waitv, or a sandbox forbids it, and no sleeper tries again.
// Any other error (EINVAL, EFAULT, ENOMEM, ...) may be due to one sleeper's word or to
// a lack of memory that passes. It holds for this sleep only: the sleepers' next
// sleeps try futex_waitv again, once each.
func (w *multiWaiter) run() {
	woken, idle := -1, 0
	for {
		n, changed := w.collect(woken)
		if n == 0 {
			return
		}
		if idle++; changed {
			idle = 0
		}
		if idle > maxIdleReturns {
			w.fail(false)
			return
		}
		var errno unix.Errno
		woken, errno = sysFutexWaitV(w.words[:n])
		switch errno {
		case 0, unix.EAGAIN, unix.EINTR:
			// A word has changed or was woken, or there was a signal. If the
			// call always ends like this without a cause, idle ends it.
		case unix.ENOSYS, unix.EPERM:
			w.fail(true)
			return
		default:
			w.fail(false)
			return
		}
	}
}

// collect ends the sleeps of those whose words have changed, and of the one whose
// word number woken was, and lists the words of the others. It returns how many words
// there are, or 0 if there are no sleepers: the multi-waiter then has to end. It also
// reports whether a sleeper has come or gone since the last time.
func (w *multiWaiter) collect(woken int) (n int, changed bool) {
	multiWaiters.mu.Lock()
	defer multiWaiters.mu.Unlock()
	added := atomic.LoadUint32(&w.added)
	changed = w.words[0].value != uint64(added)
	w.words[0] = waitPrivate(&w.added, added)
	stay := w.sleepers[:0]
	for i, s := range w.sleepers {
		// A word that was woken without a change is that of a sleeper that is
		// to be interrupted. Sleepers keep their order, and new ones come last.
		if i+1 == woken || atomic.LoadUint32(s.word) != s.value {
			close(s.done)
			changed = true
			continue
		}
		stay = append(stay, s)
		w.words[len(stay)] = waitShared(s.word, s.value)
	}
	clear(w.sleepers[len(stay):])
	w.sleepers = stay
	if len(stay) == 0 {
		w.remove()
		return 0, changed
	}
	return 1 + len(stay), changed
}

// fail makes all sleepers sleep by themselves. If the error is final, later ones do
// so, too.
func (w *multiWaiter) fail(final bool) {
	multiWaiters.mu.Lock()
	defer multiWaiters.mu.Unlock()
	if final {
		multiWaiters.unsupported = true
	}
	for _, s := range w.sleepers {
		s.failed = true
		close(s.done)
	}
	w.sleepers = nil
	w.remove()
}

// remove makes later sleepers join others. The caller holds the lock.
func (w *multiWaiter) remove() {
	i := slices.Index(multiWaiters.all, w)
	multiWaiters.all = slices.Delete(multiWaiters.all, i, i+1)
}
