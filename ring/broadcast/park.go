package broadcast

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// SetWait says how Wait waits. The default is [ring.WaitAdaptive].
func (r *Reader) SetWait(mode ring.Wait) { r.spin.SetMode(wait.Mode(mode)) }

// Ready reports whether Next would return a record or an error, or would at least find that
// records were lost.
func (r *Reader) Ready() bool {
	pos := r.next.Position
	return shared.Peek(&r.words[pos&r.mask/wordSize]) != 0 || atomic.LoadUint64(r.intent)-pos > r.size || r.err != nil || r.cut
}

// Interrupt makes a Wait that is blocked, and every later one that finds nothing to read, return
// err, which must not be nil. Only the first Interrupt's err counts. Any goroutine may call it.
func (r *Reader) Interrupt(err error) {
	if err == nil {
		panic("tandem: broadcast: interrupt without an error")
	}
	r.interrupted.Set(err)
	r.sleep.Wake()
}

// Wait blocks until there is a record, or Next has an error to return. It spins and parks by the
// strategy of [Reader.SetWait]. Errors are the one of Interrupt and ctx's; both come only after
// a last look into the ring.
func (r *Reader) Wait(ctx context.Context) error {
	if r.inVain() {
		if err := r.quit(ctx); err != nil {
			return err
		}
	}
	defer r.spin.Stop()
	r.spin.Begin()
	for i := 0; ; i++ {
		if r.Ready() {
			r.spin.End()
			return nil
		}
		if i%1024 == 1023 && r.own != nil {
			r.service() // for one that never parks
		}
		if i%64 == 0 {
			r.idle()
			if err := r.quit(ctx); err != nil {
				if r.Ready() { // it was published before that reason
					return nil
				}
				return err
			}
		}
		if !r.spin.Again() {
			return r.park(ctx)
		}
	}
}

// maxVain is how often in a row Next may find nothing after Wait has found that there is something, until
// Wait looks at its reasons to quit first. It takes a writer that is very quick, or one that means harm.
const maxVain = 64

// inVain counts calls of Wait, and reports whether there have been so many without a record.
func (r *Reader) inVain() bool {
	if read := r.next.Sequence - r.lost; read != r.waitedAt {
		r.waitedAt, r.waits = read, 0
	}
	r.waits++
	return r.waits%maxVain == 0
}

// park is the second half of Wait.
func (r *Reader) park(ctx context.Context) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, r.sleep.Wake)
		defer stop()
	}
	defer r.disarm()
	for {
		bell := r.sleep.Prepare()
		rings := r.arm()
		err := r.quit(ctx)
		// The look comes after arm, and after the reasons to quit: what was published
		// before the writer's death is still read.
		if r.Ready() {
			r.sleep.Cancel()
			return nil
		}
		if err != nil {
			r.sleep.Cancel()
			return err
		}
		if rings {
			r.sleep.Block(bell)
		} else {
			r.sleep.Poll(r.Ready)
		}
	}
}

// arm asks the writer to ring for the next record. It reports whether the writer will.
func (r *Reader) arm() bool {
	if r.own == nil {
		return false
	}
	r.settle()
	r.epoch += epochStep
	// SYNC: pairs with Writer.Publish, which stores a record's word and then loads this one.
	atomic.StoreUint32(r.waiting, r.epoch|stateParked)
	switch r.service() {
	case placeNone:
		return false
	case placeCutOff:
		r.cut = true
	}
	return true
}

// disarm takes arm back, so that the writer stops making system calls.
func (r *Reader) disarm() {
	if r.own != nil {
		atomic.StoreUint32(r.waiting, r.epoch|stateNone)
	}
	r.spin.End()
}

// quit returns why a wait for data has to end, if it has.
func (r *Reader) quit(ctx context.Context) error {
	if err := r.interrupted.Get(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tandem: broadcast: no data: %w", err)
	}
	return nil
}

// idle is called when there is nothing to read. What it loads changes rarely.
func (r *Reader) idle() {
	if r.own == nil {
		return
	}
	if r.next.Position != r.published && atomic.LoadUint32(r.wanted)&stateMask != stateNone {
		r.settle()
	}
	if r.known && r.service() == placeCutOff {
		r.cut = true
	}
}

// settle publishes the position up to which all is done with.
func (r *Reader) settle() {
	if r.next.Position != r.published && r.err == nil {
		r.publish(r.next.Position)
	}
}

// publish stores the position and rings if the writer is parked.
func (r *Reader) publish(pos uint64) {
	r.published = pos
	if r.own == nil {
		return
	}
	if !r.known {
		r.service()
	}
	// SYNC: pairs with Peer.refresh: what was read below pos was read before the writer
	// overwrites it. Pairs also with Writer.want, which stores wanted and then loads the position.
	atomic.StoreUint64(r.position, pos)
	if v := atomic.LoadUint32(r.wanted); v&stateMask == stateParked && v != r.rung {
		r.rung = v
		// SYNC: pairs with Sleeper.Prepare of the writer.
		atomic.AddUint32(r.spaceBell, 1)
		wait.FutexWake(r.spaceBell)
	}
}

// Close tells the writer that the reader has left: it is neither rung for nor waited for any more. Next
// returns [ErrLeft] from then on. A reader without a segment has nobody to tell. Closing again
// does nothing.
func (r *Reader) Close() {
	if r.err == ErrLeft {
		return
	}
	if r.own != nil {
		atomic.StoreUint32(r.waiting, r.epoch|stateNone)
		r.publish(positionLeft)
	}
	r.fail(ErrLeft)
}
