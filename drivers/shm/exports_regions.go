package shm

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var errTooManyRegions = errors.New("the buffers that the peer has lie in too many of them: make the arena's regions larger, or freeze fewer buffers")

// exportedRegion is a region that the peer has.
type exportedRegion struct {
	index uint32
	held  int  // places with buffers in it
	lost  bool // the peer could not map it
}

// mayGetRoom reports whether what has failed with err will work when the peer has released some
// buffers, or knows that regions have gone, or when this side knows what the peer has released: known says whether it did. The lock
// is held.
func (e *exports) mayGetRoom(err error, known bool) bool {
	switch {
	case errors.Is(err, errTooManyRegions):
		return e.leaving.Load() > 0 || !known
	case errors.Is(err, errSpillFull):
		return e.spilled > 0
	}
	return false
}

var (
	errReleased  = ipc.Errorf(ipc.CodeInvalidArgument, "tandem: a Buffer was released while it was sent")
	errSpillFull = errors.New("buffers that are not in shared memory are copied, and the peer has all that may be of them")
)

// shared returns a holder of the buffer, or of a copy if that does not lie in shared memory.
func (e *exports) shared(ctx context.Context, b ipc.Buffer) (hold ipc.Buffer, region ipc.Region, offset int, spilled bool, err error) {
	hold, ok := b.Hold()
	if !ok || hold.IsZero() {
		return hold, nil, 0, false, errReleased
	}
	backing, at := hold.Backing()
	if region, offset = backing.Region(); region != nil {
		return hold, region, offset + at, false, nil
	}
	defer hold.Release()
	if e.spill == nil {
		e.spill = ipc.NewArena(ipc.ArenaOptions{NoWait: true})
	}
	data := hold.Bytes()
	small, err := e.spill.Alloc(ctx, len(data))
	var system syscall.Errno
	switch {
	case errors.Is(err, ipc.ErrExhausted) && !errors.As(err, &system) && len(data) <= ipc.DefaultArenaLimit:
		err = &ipc.ExhaustedError{Resource: "memory for copies of buffers", Err: errors.Join(errSpillFull, err)}
		fallthrough
	case err != nil:
		return small, nil, 0, false, fmt.Errorf("tandem: shm: copy a buffer that is not in shared memory: %w", err)
	}
	copy(small.Bytes(), data)
	backing, at = small.Backing()
	if region, offset = backing.Region(); region == nil {
		small.Release()
		return small, nil, 0, false, fmt.Errorf("%w: shm: the arena is not in shared memory", ipc.ErrUnsupported)
	}
	return small, region, offset + at, true, nil
}

// regionOf returns a region as the peer has it, and passes it to the peer if that does not have it
// yet. The lock is held.
//
// An index is not used again before all others were. The peer reads a frame before the records
// that came ahead of it, if it knows the region, and would take an earlier one of that index for
// this one.
func (e *exports) regionOf(ctx context.Context, r ipc.Region) (*exportedRegion, error) {
	if r == e.last {
		return e.lastPassed, nil
	}
	if passed, ok := e.regions[r]; ok {
		e.last, e.lastPassed = r, passed
		return passed, nil
	}
	if e.passed == maxRegions {
		return nil, &ipc.ExhaustedError{Resource: "regions of shared memory on one link", Limit: fmt.Sprintf("the most are %d", maxRegions), Err: errTooManyRegions}
	}
	for e.stops[e.next] != nil || e.next == drivers.FileRegion {
		e.next++
	}
	index := e.next
	if err := e.pass(ctx, index, r.Size(), r.File()); err != nil {
		return nil, err
	}
	if e.regions == nil {
		e.regions, e.stops = make(map[ipc.Region]*exportedRegion), make(map[uint32]func())
	}
	e.next++
	e.passed++
	passed := &exportedRegion{index: index}
	e.regions[r] = passed
	e.stops[index] = r.Use(e)
	return passed, nil
}

// Dropped implements [ipc.RegionUser].
func (e *exports) Dropped(r ipc.Region) {
	e.leaving.Add(1)
	e.telling.start(func() {
		defer e.leaving.Add(-1)
		if !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		passed := e.regions[r]
		delete(e.regions, r)
		e.last = nil
		e.lock.Unlock()
		if passed != nil {
			e.sayGone(passed)
		}
	})
}

// lost makes the next buffer of a region that the peer could not map pass it again. It does not
// block. It fails if the peer says so too often.
func (e *exports) lost(index uint32) (ok bool) {
	return e.telling.start(func() {
		if !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		defer e.lock.Unlock()
		for r, passed := range e.regions {
			if passed.index == index {
				delete(e.regions, r)
				e.last = nil
				e.stops[index]()
				passed.lost = true
				e.leaveLost(passed)
				return
			}
		}
	})
}

// leaveLost tells the peer that no frame will name a region that it has lost, when no place has a buffer
// in it: until then there may be such a frame. The lock is held.
func (e *exports) leaveLost(passed *exportedRegion) {
	if passed.lost && passed.held == 0 {
		e.telling.start(func() { e.sayGone(passed) })
	}
}

// sayGone tells the peer that no frame will name a region, which is not in e.regions any more.
func (e *exports) sayGone(passed *exportedRegion) {
	e.leaving.Add(1)
	defer e.leaving.Add(-1)
	if e.forget(passed.index) == nil && e.lock.Lock(context.Background(), e.gone) {
		delete(e.stops, passed.index)
		e.passed-- // now that the peer forgets it
		e.lock.Unlock()
	}
}

// heldWait bounds how long Held waits for a sender, which a stopped peer may hold up for ever.
const heldWait = 20 * time.Millisecond

// Held implements [ipc.RegionUser].
func (e *exports) Held(r ipc.Region) (pid, buffers int) {
	ctx, cancel := context.WithTimeout(context.Background(), heldWait)
	defer cancel()
	if !e.lock.Lock(ctx, e.gone) {
		return e.peer, 0
	}
	defer e.lock.Unlock()
	if passed := e.regions[r]; passed != nil {
		buffers = passed.held
	}
	return e.peer, buffers
}
