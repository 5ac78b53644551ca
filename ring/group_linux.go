package ring

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// groupSleep is what a Group needs to sleep: a together for each multiWaitSize consumers.
type groupSleep struct{ all []*together }

// together is a thread's sleep for many consumers.
type together struct {
	words [multiWaitSize + 1]futexWaitV // the group's, then the bells
	idle  int                           // returns in a row although nothing has happened
}

// block sleeps while the group's word and all bells have their values. It may return early
// for no reason. All threads sleep on the group's word, so one change of it ends all sleeps.
func (g *Group) block(word uint32) {
	g.sleep.letOthersRun()
	var others sync.WaitGroup
	consumers := g.consumers
	for i := 0; ; i++ {
		if i == len(g.parking.all) {
			g.parking.all = append(g.parking.all, new(together))
		}
		some := consumers[:min(len(consumers), multiWaitSize)]
		consumers = consumers[len(some):]
		t := g.parking.all[i]
		if len(consumers) == 0 {
			t.sleep(g, word, some)
			break
		}
		others.Go(func() {
			t.sleep(g, word, some)
			g.stir()
		})
	}
	if len(g.consumers) > multiWaitSize {
		g.stir()
		others.Wait()
	}
}

// sleep is block for some of the consumers.
func (t *together) sleep(g *Group, word uint32, consumers []*Consumer) {
	if !multiWaiters.lacking() && t.try(g, word, consumers) {
		return
	}
	t.idle = 0
	defer g.sleepApart(consumers)()
	futexWait(&g.word, word, 0)
}

// try is sleep by one system call. It returns false if that fails.
func (t *together) try(g *Group, word uint32, consumers []*Consumer) bool {
	t.words[0] = waitShared(&g.word, word)
	for i, c := range consumers {
		t.words[1+i] = waitShared(c.sleep.bell, c.armedBell())
	}
	_, errno := sysFutexWaitV(t.words[:1+len(consumers)])
	switch errno {
	case 0:
		t.idle = 0
		return true
	case unix.EAGAIN, unix.EINTR:
		// A word has changed, or there was a signal. If the call always ends like
		// this without a cause, idle ends it.
		if t.idle++; atomic.LoadUint32(&g.word) != word || slices.ContainsFunc(consumers, (*Consumer).rang) {
			t.idle = 0
		}
		return t.idle <= maxIdleReturns
	case unix.ENOSYS, unix.EPERM:
		multiWaiters.lack()
	}
	return false
}

// sleepApart has a goroutine sleep for each of the consumers, which ends the sleep on the
// group's word. The function that it returns ends them. Sleepers share threads, see sleepOn.
func (g *Group) sleepApart(consumers []*Consumer) (end func()) {
	var all sync.WaitGroup
	var ended atomic.Bool
	for _, c := range consumers {
		all.Go(func() {
			c.Sleep(func() bool { return ended.Load() || c.Ready() })
			g.stir()
		})
	}
	return func() {
		ended.Store(true)
		for _, c := range consumers {
			c.sleep.wake()
		}
		all.Wait()
		for _, c := range consumers {
			c.sleep.cancel() // of a wake that came too late to be needed
		}
	}
}
