package ring

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// SetWait says how Wait and Spin wait for data. The default is [WaitAdaptive].
func (c *Consumer) SetWait(w Wait) { c.spin.SetMode(wait.Mode(w)) }

// Ready reports whether Next would return a record or an error. Any goroutine
// may call it. While the reader is at work on a batch the answer may be about a
// record that has just been read; once the reader has armed, it is exact.
func (c *Consumer) Ready() bool {
	pos := atomic.LoadUint64(&c.next)
	return shared.Peek(&c.words[pos&c.mask/wordSize]) != 0 || c.corrupt.Get() != nil
}

// spinBurst is how often Spin looks before it returns: under a microsecond. Between
// two looks there is nothing but a pause, so that a record is seen soon.
const spinBurst = 16

// Spin is for a reader that polls Next itself, and is called after a Next that found
// nothing. It waits for a record for less than a microsecond, lets other goroutines
// run now and then, and reports whether to poll again. If not, it is time to park
// (Arm, Ready, Sleep, Disarm). It follows the strategy of [Consumer.SetWait] and
// learns from how waits end. A reader that stops polling without a record, Arm or
// Wait calls [Consumer.StopSpinning].
func (c *Consumer) Spin() bool {
	if c.spinAt != c.next {
		c.spinAt = c.next
		c.spin.End()
	}
	word := &c.words[c.next&c.mask/wordSize]
	for range spinBurst {
		if !c.spin.Again() {
			return false
		}
		for range 8 {
			if atomic.LoadUint64(word) != 0 {
				return true
			}
		}
	}
	return true
}

// Arm asks the producer to ring for the next record, and publishes the position.
// The reader calls it before it goes idle. It must look again afterwards, with
// Ready or Next: the producer does not ring for a record that it published before.
// The producer rings once: after a Sleep that has returned, arm again before the
// next one. Arm is one atomic store.
func (c *Consumer) Arm() {
	c.settle()
	c.StopSpinning() // perhaps in the middle of a wait
	c.armed = true
	c.epoch += epochStep
	// SYNC: pairs with Consumer.Sleep. A sleeper that sees the bell that the
	// store below leads to sees this, too.
	shared.StoreRelaxed(&c.armedAt, uint64(atomic.LoadUint32(c.sleep.Bell))<<1|1)
	// SYNC: pairs with Producer.Publish, which stores a record's word and then
	// loads this one.
	atomic.StoreUint32(c.waiting, c.epoch|stateParked)
}

// StopSpinning tells the consumer that the reader has stopped polling without Arm.
// Another reader of the process may then spin at once; without the call it may soon.
// Only the reader may call it. It touches no memory of the ring.
func (c *Consumer) StopSpinning() { c.spin.Stop() }

// Disarm takes Arm back. The reader calls it when it polls again, so that the
// producer stops making system calls. Without Arm before it does nothing.
func (c *Consumer) Disarm() {
	if !c.armed {
		return
	}
	c.armed = false
	shared.StoreRelaxed(&c.armedAt, 0)
	atomic.StoreUint32(c.waiting, c.epoch|stateNone)
	if c.spin.GaveUp() {
		c.spin.End()
	}
}

// Sleep blocks the calling goroutine, and its thread, until the producer rings,
// or Wake is called, or for no reason. It looks at until, which may be nil, after
// it has noted the state of the bell and before it sleeps, and returns at once if
// that is true. To miss nothing, until must include Ready, unless some other
// goroutine is the reader and arms and looks later.
//
// The producer rings once for each Arm, and possibly for a record that was read
// just before it. So when the bell has been rung since Arm, Sleep returns at once
// until the reader has armed anew, whether there is a record or not.
//
// One goroutine at a time may sleep, and it need not be the reader: Sleep does
// not arm, and other goroutines may call Next, Arm and Disarm meanwhile. If the
// kernel refuses to let anyone sleep, Sleep polls with pauses instead.
func (c *Consumer) Sleep(until func() bool) {
	bell := c.sleep.Prepare()
	// SYNC: pairs with Consumer.Arm, see there.
	at := atomic.LoadUint64(&c.armedAt)
	if at&1 != 0 && uint32(at>>1) != bell || until != nil && until() {
		c.sleep.Cancel()
		return
	}
	c.sleep.Block(bell)
}

// Wake makes the Sleep that is going on return, or else the next one. Any
// goroutine may call it. It returns when the sleeper is awake.
func (c *Consumer) Wake() { c.sleep.Wake() }

// Interrupt makes a Wait that is blocked, and every later one that finds nothing
// to read, return err, which must not be nil. Only the first Interrupt's err
// counts. Any goroutine may call it.
func (c *Consumer) Interrupt(err error) {
	if err == nil {
		panic("tandem: ring: interrupt without an error")
	}
	// SYNC: pairs with Group.Add, after which the group looks at interrupted.
	c.interrupted.Set(err)
	c.sleep.Wake()
	if g := c.group.Load(); g != nil {
		g.stir()
	}
}

// Interrupted returns the error of the first [Consumer.Interrupt], or nil if there was none.
// Any goroutine may call it.
func (c *Consumer) Interrupted() error { return c.interrupted.Get() }

// Wait releases the last record and blocks until the next one is there, or the
// ring is corrupt: then Next returns it. It spins and parks by the strategy of
// [Consumer.SetWait]. Errors are the one of [Consumer.Interrupt] and ctx's; both
// come only after a last look into the ring. Only the reader may call it, and
// nobody may be in Sleep.
func (c *Consumer) Wait(ctx context.Context) error {
	c.start = c.next
	defer c.spin.Stop()
	for i := 0; ; i++ {
		if c.Ready() {
			return nil
		}
		c.idle()
		if i%64 == 0 {
			if err := quit(ctx, &c.interrupted); err != nil {
				// What was published before that reason is still read.
				if c.Ready() {
					return nil
				}
				return err
			}
		}
		if !c.Spin() {
			return c.park(ctx)
		}
	}
}

// park is the second half of Wait.
func (c *Consumer) park(ctx context.Context) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.sleep.Wake)
		defer stop()
	}
	defer c.Disarm()
	for {
		bell := c.sleep.Prepare()
		c.Arm()
		err := quit(ctx, &c.interrupted)
		// The look comes after Arm, and after the reasons to quit: what was
		// published before the peer's death is still read.
		if c.Ready() {
			c.sleep.Cancel()
			return nil
		}
		if err != nil {
			c.sleep.Cancel()
			return err
		}
		c.sleep.Block(bell)
	}
}

// quit returns why a wait for data has to end, if it has.
func quit(ctx context.Context, interrupted *wait.Failure) error {
	if err := interrupted.Get(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tandem: ring: no data: %w", err)
	}
	return nil
}
