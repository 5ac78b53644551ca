package ring

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// groupSleep is what a Group needs to sleep.
type groupSleep struct {
	words [multiWaitSize + 1]futexWaitV // the group's, then the bells
	idle  int                           // returns in a row although nothing has happened
}

// block sleeps while the group's word and all bells have their values. It may return early
// for no reason.
func (g *Group) block(word uint32) {
	g.sleep.letOthersRun()
	n := min(len(g.consumers), multiWaitSize)
	if multiWaiters.lacking() {
		n = 0
	}
	if rest := g.consumers[n:]; len(rest) > 0 {
		defer g.sleepApart(rest)()
	}
	if n > 0 {
		if g.sleepTogether(word, n) {
			return
		}
		defer g.sleepApart(g.consumers[:n])()
	}
	futexWait(&g.word, word, 0)
}

// sleepTogether sleeps with one system call for the first n consumers. It returns false if
// that fails.
func (g *Group) sleepTogether(word uint32, n int) bool {
	p := &g.parking
	p.words[0] = waitShared(&g.word, word)
	for i, c := range g.consumers[:n] {
		p.words[1+i] = waitShared(c.sleep.bell, c.armedBell())
	}
	_, errno := sysFutexWaitV(p.words[:1+n])
	switch errno {
	case 0:
		p.idle = 0
		return true
	case unix.EAGAIN, unix.EINTR:
		// A word has changed, or there was a signal. If the call always ends like
		// this without a cause, idle ends it.
		if p.idle++; g.changed(word, n) {
			p.idle = 0
		}
		return p.idle <= maxIdleReturns
	case unix.ENOSYS, unix.EPERM:
		multiWaiters.lack()
	}
	p.idle = 0
	return false
}

// changed reports whether one of the words that are slept on has changed.
func (g *Group) changed(word uint32, n int) bool {
	for _, c := range g.consumers[:n] {
		if c.rang() {
			return true
		}
	}
	return atomic.LoadUint32(&g.word) != word
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
