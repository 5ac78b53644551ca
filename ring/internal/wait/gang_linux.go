package wait

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// parking is what a Gang needs to sleep.
type parking struct {
	words [multiWaitSize + 1]futexWaitV // the gang's, then the bells
	idle  int                           // returns in a row although nothing has happened
}

// Block sleeps while Word is word and no bell has been rung. It may return early for no
// reason.
func (g *Gang) Block(word uint32, members []Member) {
	g.yield.Bell = &g.Word
	g.yield.letOthersRun(word)
	n := min(len(members), multiWaitSize)
	if multiWaiters.lacking() {
		n = 0
	}
	if rest := members[n:]; len(rest) > 0 {
		defer g.sleepApart(rest)()
	}
	if n > 0 {
		if g.sleepTogether(word, members[:n]) {
			return
		}
		defer g.sleepApart(members[:n])()
	}
	futexWait(&g.Word, word, 0)
}

// sleepTogether sleeps with one system call for all members. It returns false if that
// fails.
func (g *Gang) sleepTogether(word uint32, members []Member) bool {
	p := &g.parking
	p.words[0] = waitShared(&g.Word, word)
	for i := range members {
		p.words[1+i] = waitShared(members[i].Sleeper.Bell, members[i].Expected())
	}
	_, errno := sysFutexWaitV(p.words[:1+len(members)])
	switch errno {
	case 0:
		p.idle = 0
		return true
	case unix.EAGAIN, unix.EINTR:
		// A word has changed, or there was a signal. If the call always ends like
		// this without a cause, idle ends it.
		if p.idle++; g.changed(word, members) {
			p.idle = 0
		}
		return p.idle <= maxIdleReturns
	case unix.ENOSYS, unix.EPERM:
		multiWaiters.lack()
	}
	p.idle = 0
	return false
}

// sleepApart has a goroutine sleep for each of the members, which ends the sleep on the
// gang's word. The function that it returns ends them. Sleepers share threads, see sleepOn.
func (g *Gang) sleepApart(members []Member) (end func()) {
	var all sync.WaitGroup
	var ended atomic.Bool
	for i := range members {
		m := &members[i]
		all.Go(func() {
			m.sleep(func() bool { return ended.Load() || m.Ready() })
			g.Stir()
		})
	}
	return func() {
		ended.Store(true)
		for i := range members {
			members[i].Sleeper.Wake()
		}
		all.Wait()
		for i := range members {
			members[i].Sleeper.Cancel() // of a wake that came too late to be needed
		}
	}
}
