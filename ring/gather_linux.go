package ring

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A sleeper that blocks in FUTEX_WAIT holds a thread. That is the fastest way to
// be woken, and too dear for a thousand idle links. So only a few sleepers, those
// that fell asleep last, have a thread of their own; the others are gathered, up to
// gatherSize on one thread, with futex_waitv (Linux 5.16). Where that is missing,
// each has its thread.
const (
	// ownThreads is how many sleepers may have a thread of their own.
	ownThreads = 16
	// ownTime is for how long, once half of them do.
	ownTime = 20 * time.Millisecond
	// gatherSize is the largest number of words for one futex_waitv, less the
	// one that adds sleepers.
	gatherSize = 127
)

// seats counts the sleepers with a thread of their own.
var seats atomic.Int32

// blockOn sleeps while *word == value, until somebody wakes the word. It may return
// early for no reason.
func blockOn(word *uint32, value uint32) error {
	n := seats.Add(1)
	if n > ownThreads {
		seats.Add(-1)
		if gatherOn(word, value) {
			return nil
		}
		return futexWait(word, value, 0)
	}
	var timeout time.Duration
	if n > ownThreads/2 {
		timeout = ownTime
	}
	err := futexWait(word, value, timeout)
	seats.Add(-1)
	if err != errFutexTimeout {
		return err
	}
	if gatherOn(word, value) {
		return nil
	}
	return futexWait(word, value, 0)
}

// gatherers are all that run. They come and go with their sleepers.
var gatherers struct {
	mu   sync.Mutex
	all  []*gatherer
	none bool // the kernel has no futex_waitv
}

// gatherer is a goroutine, and so a thread, that sleeps for many sleepers.
type gatherer struct {
	// added changes when a sleeper joins, and is slept on with their words.
	added   uint32
	members []*gathered // guarded by gatherers.mu
}

// gathered is a sleeper. Its memory stays mapped until woken is closed.
type gathered struct {
	word  *uint32
	value uint32
	woken chan struct{}
}

// gatherOn is blockOn without a thread. It returns false if that is impossible.
func gatherOn(word *uint32, value uint32) bool {
	m := &gathered{word: word, value: value, woken: make(chan struct{})}
	gatherers.mu.Lock()
	if gatherers.none {
		gatherers.mu.Unlock()
		return false
	}
	var g *gatherer
	for _, candidate := range gatherers.all {
		if len(candidate.members) < gatherSize {
			g = candidate
			break
		}
	}
	if g == nil {
		g = new(gatherer)
		gatherers.all = append(gatherers.all, g)
		go g.run()
	}
	g.members = append(g.members, m)
	// SYNC: pairs with the load in gatherer.run, under the same lock: the
	// sleep that run begins without m does not begin, or is woken.
	atomic.AddUint32(&g.added, 1)
	gatherers.mu.Unlock()
	futexWakePrivate(&g.added)
	<-m.woken
	return true
}

// run sleeps for its members until there are none.
func (g *gatherer) run() {
	var words [gatherSize + 1]futexWaitV
	woken := -1
	for {
		n, ok := g.collect(&words, woken)
		if !ok {
			return
		}
		var errno unix.Errno
		woken, errno = futexWaitMany(words[:n])
		if errno == unix.ENOSYS || errno == unix.EPERM {
			g.giveUp()
			return
		}
	}
}

// collect wakes the members whose words have changed, and the one whose word
// number woken was, and lists the words of the others. It returns false when
// there are none, and the gatherer has to end.
func (g *gatherer) collect(words *[gatherSize + 1]futexWaitV, woken int) (n int, ok bool) {
	gatherers.mu.Lock()
	defer gatherers.mu.Unlock()
	words[0] = waitPrivate(&g.added, atomic.LoadUint32(&g.added))
	stay := g.members[:0]
	for i, m := range g.members {
		// A word that was woken without a change is that of a sleeper that is
		// to be interrupted. Members keep their order, and new ones come last.
		if i+1 == woken || atomic.LoadUint32(m.word) != m.value {
			close(m.woken)
			continue
		}
		stay = append(stay, m)
		words[len(stay)] = waitShared(m.word, m.value)
	}
	clear(g.members[len(stay):])
	g.members = stay
	if len(stay) > 0 {
		return 1 + len(stay), true
	}
	for i, other := range gatherers.all {
		if other == g {
			gatherers.all = append(gatherers.all[:i], gatherers.all[i+1:]...)
			break
		}
	}
	return 0, false
}

// giveUp sends the members back to threads of their own: the kernel cannot do it.
func (g *gatherer) giveUp() {
	gatherers.mu.Lock()
	defer gatherers.mu.Unlock()
	gatherers.none = true
	for _, m := range g.members {
		close(m.woken)
	}
	g.members = nil
	gatherers.all = nil
}
