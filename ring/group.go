package ring

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Group waits for many consumers at once, as [Consumer.Wait] does for one. While it is
// parked it takes one thread for each 127 of them, and is woken once, whoever rings. For
// that it takes Linux 5.16; on an older one each consumer that is waited for takes a thread,
// and systems other than Linux poll. Package gather is made with it, and reads in fair order.
//
// The zero Group has no consumers and is ready to use. It must not be copied. It is for one
// goroutine at a time, the reader of all of its consumers, except for Wake and Interrupt,
// which any goroutine may call. The reader waits for the Group alone: it calls none of
// Wait, Arm, Disarm and Sleep of the consumers.
type Group struct {
	consumers []*Consumer
	members   []wait.Member // of the gang: the consumers, in their order
	spin      wait.Spinner
	seen      uint32 // the value of wakes that Wait has returned for

	_ [padding]byte // other goroutines write below

	gang        wait.Gang
	wakes       atomic.Uint32 // calls of Wake
	interrupted wait.Failure

	_ [padding]byte
}

// SetWait says how Wait waits for data. The default is [WaitAdaptive].
func (g *Group) SetWait(w Wait) { g.spin.SetMode(wait.Mode(w)) }

// Add adds c. It panics if c is in a Group.
func (g *Group) Add(c *Consumer) {
	if !c.group.CompareAndSwap(nil, g) {
		panic("tandem: ring: the consumer is in a group already")
	}
	g.consumers = append(g.consumers, c)
	g.members = append(g.members, wait.Member{Sleeper: &c.sleep, Expected: c.armedBell, Ready: c.Ready})
}

// Remove takes c out, and its producer does not ring any more. It panics if c is not in g.
func (g *Group) Remove(c *Consumer) {
	i := slices.Index(g.consumers, c)
	if i < 0 {
		panic("tandem: ring: the consumer is not in the group")
	}
	g.consumers = slices.Delete(g.consumers, i, i+1)
	g.members = slices.Delete(g.members, i, i+1)
	c.Disarm()
	c.group.Store(nil)
}

// Wake makes the Wait that is going on return nil, or else the next one. Any goroutine may
// call it.
func (g *Group) Wake() {
	// SYNC: pairs with Group.park, which loads the gang's word and then looks at wakes.
	g.wakes.Add(1)
	g.stir()
}

// stir ends the sleep that is going on.
func (g *Group) stir() { g.gang.Stir() }

// Interrupt makes a Wait that is blocked, and every later one that finds nothing to read,
// return err, which must not be nil. Only the first Interrupt's err counts. Any goroutine
// may call it.
func (g *Group) Interrupt(err error) {
	if err == nil {
		panic("tandem: ring: interrupt without an error")
	}
	g.interrupted.Set(err)
	g.stir()
}

// Wait blocks until one of the consumers is [Consumer.Ready] or has been interrupted (see
// [Consumer.Interrupted]), or Wake is called. Unless that is so at once, it releases the
// last record of each, and gives their memory back. It spins and parks by the strategy of
// [Group.SetWait]. Errors are the one of [Group.Interrupt] and ctx's; both come only after
// a last look into the rings, and whether Wake was called.
func (g *Group) Wait(ctx context.Context) error {
	if g.ready() || g.woken() {
		return nil
	}
	for _, c := range g.consumers {
		c.Release()
	}
	g.spin.Begin()
	defer g.spin.Stop()
	for i := 0; ; i++ {
		if g.ready() {
			g.spin.End()
			return nil
		}
		if i%64 == 0 {
			err := quit(ctx, &g.interrupted)
			// What was published, and whoever woke us, before that reason counts.
			if g.woken() || err != nil && g.ready() {
				return nil
			}
			if err != nil {
				return err
			}
		}
		if !g.spin.Again() {
			return g.park(ctx)
		}
	}
}

// park is the second half of Wait.
//
// A consumer stays armed when the sleep ends: its producer then rings once more at most,
// and if it has not rung by the next sleep nothing has to be done for it. So a sleep costs
// one store for each ring that was rung since the last one, not for each ring.
func (g *Group) park(ctx context.Context) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, g.stir)
		defer stop()
	}
	for {
		// SYNC: pairs with Wake and Interrupt, which stir the gang after what they change it for.
		word := atomic.LoadUint32(&g.gang.Word)
		for _, c := range g.consumers {
			if !c.armed || c.rang() {
				c.Arm()
			}
		}
		err := quit(ctx, &g.interrupted)
		// The look comes after arming, and after the reasons to quit, as in Consumer.park.
		switch {
		case g.ready():
			g.spin.End()
			return nil
		case g.woken():
			return nil
		case err != nil:
			return err
		}
		g.gang.Block(word, g.members)
	}
}

// ready reports whether there is something to read, or a consumer that was interrupted.
func (g *Group) ready() bool {
	for _, c := range g.consumers {
		if c.Ready() || c.interrupted.Get() != nil {
			return true
		}
	}
	return false
}

// woken reports whether Wake was called since it has last reported so.
func (g *Group) woken() bool {
	wakes := g.wakes.Load()
	if wakes == g.seen {
		return false
	}
	g.seen = wakes
	return true
}

// rang reports whether the producer has rung since the consumer was armed.
func (c *Consumer) rang() bool { return atomic.LoadUint32(c.sleep.Bell) != c.armedBell() }

// armedBell is the value that the bell had when the consumer was armed.
func (c *Consumer) armedBell() uint32 { return uint32(c.armedAt >> 1) }
