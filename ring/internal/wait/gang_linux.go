package wait

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// parking is what a Gang needs to sleep: a together for each multiWaitSize members.
type parking struct{ all []*together }

// together is a thread's sleep for many members.
type together struct {
	words [multiWaitSize + 1]futexWaitV // the gang's, then the bells
	idle  int                           // returns in a row although nothing has happened
}

// Block sleeps while Word is word and no bell has been rung. It may return early for no
// reason. All threads sleep on Word, so one change of it ends all sleeps.
func (g *Gang) Block(word uint32, members []Member) {
	g.yield.Bell = &g.Word
	g.yield.letOthersRun(word)
	var others sync.WaitGroup
	rest := members
	for i := 0; ; i++ {
		if i == len(g.parking.all) {
			g.parking.all = append(g.parking.all, new(together))
		}
		some := rest[:min(len(rest), multiWaitSize)]
		rest = rest[len(some):]
		t := g.parking.all[i]
		if len(rest) == 0 {
			t.sleep(g, word, some)
			break
		}
		others.Go(func() {
			t.sleep(g, word, some)
			g.Stir()
		})
	}
	if len(members) > multiWaitSize {
		g.Stir()
		others.Wait()
	}
}

// sleep is Block for some of the members.
func (t *together) sleep(g *Gang, word uint32, members []Member) {
	if !multiWaiters.lacking() && t.try(g, word, members) {
		return
	}
	t.idle = 0
	defer g.sleepApart(members)()
	futexWait(&g.Word, word, 0)
}

// try is sleep by one system call. It returns false if that fails.
func (t *together) try(g *Gang, word uint32, members []Member) bool {
	t.words[0] = waitShared(&g.Word, word)
	for i := range members {
		t.words[1+i] = waitShared(members[i].Sleeper.Bell, members[i].Expected())
	}
	_, errno := sysFutexWaitV(t.words[:1+len(members)])
	switch errno {
	case 0:
		t.idle = 0
		return true
	case unix.EAGAIN, unix.EINTR:
		// A word has changed, or there was a signal. If the call always ends like
		// this without a cause, idle ends it.
		if t.idle++; g.changed(word, members) {
			t.idle = 0
		}
		return t.idle <= maxIdleReturns
	case unix.ENOSYS, unix.EPERM:
		multiWaiters.lack()
	}
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
