package wait

import "sync/atomic"

// A Gang is a sleep on a word of its own and on the bells of many sleepers at once. Block is
// for one goroutine at a time, and Stir for any. The zero Gang is ready to use.
type Gang struct {
	Word uint32 // changes with whatever ends a sleep

	parking parking
	yield   Sleeper // only to let others run
}

// Member is one of the sleepers of a Gang.
type Member struct {
	Sleeper *Sleeper
	// Expected returns the value of the bell while it has not been rung.
	Expected func() uint32
	// Ready reports whether there is no reason to sleep.
	Ready func() bool
}

// Rang reports whether the bell has been rung.
func (m *Member) Rang() bool { return atomic.LoadUint32(m.Sleeper.Bell) != m.Expected() }

// sleep sleeps on the bell alone.
func (m *Member) sleep(until func() bool) {
	bell := m.Sleeper.Prepare()
	if until() {
		m.Sleeper.Cancel()
		return
	}
	m.Sleeper.Block(bell)
}

// Stir ends the sleep that is going on.
func (g *Gang) Stir() {
	// SYNC: pairs with whoever loads Word, looks at what Stir is called for, and then blocks.
	atomic.AddUint32(&g.Word, 1)
	FutexWake(&g.Word)
}

// changed reports whether Word is not word any more, or a bell has been rung.
func (g *Gang) changed(word uint32, members []Member) bool {
	for i := range members {
		if members[i].Rang() {
			return true
		}
	}
	return atomic.LoadUint32(&g.Word) != word
}
