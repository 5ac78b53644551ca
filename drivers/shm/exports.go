package shm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// Buffers cross a link as handles. For each buffer that is sent the sender takes a place, of
// which the link has maxPlaces, and holds the buffer until the peer has released what it got.
// The peer says so in memory of its own, the acks: a word for each place, which is how often what
// came in that place was released. So a release takes no message and no system call, nobody
// writes the memory of another, and when the peer dies all that it held is free.
//
//	sender                                    receiver
//	place 7 is free, used 3 times
//	holds the buffer, use 4  -- handle -->    its use 4 of place 7: a Buffer
//	...                                       Buffer.Release: acks[7] = 4
//	acks[7] is 4: lets go of the buffer
//
// The sender looks at the acks when it needs a place, and when an arena needs memory.
const (
	maxPlaces  = 4096 // buffers that a side has sent and the peer has not released
	maxRegions = 1024 // that a side has passed to the peer
	acksSize   = maxPlaces * 8
)

// exports are the buffers that the peer has of this side.
type exports struct {
	// pass passes a region to the peer under an index; forget says that the region has gone.
	pass   func(ctx context.Context, index uint32, size int, f *os.File) error
	forget func(index uint32) error
	gone   <-chan struct{} // closed when the link has ended

	telling tellers // tell the peer of regions that have gone, and of acks

	acks atomic.Pointer[sealed.Memory] // the peer's, nil until they have come

	going atomic.Int32 // regions that are gone, of which the peer is being told

	lock    sendlock.Lock // guards what follows
	ended   bool
	places  []export
	free    []uint32 // places
	sent    []uint32 // places that are used, in the order of their use; from first on
	first   int
	regions map[ipc.Region]uint32
	stops   map[uint32]func() // by the index of the region: takes its notification back
	next    uint32            // index of a region
	passed  int               // regions that the peer has, and those that it has not forgotten yet
	spill   *ipc.Arena        // for buffers that do not lie in shared memory, nil before the first
	sweeper *time.Timer
	pause   time.Duration // of the sweeper
	foreign bool          // the peer may have what another process has made
}

// errRegionsGoing says that the peer is about to forget a region.
var errRegionsGoing = errors.New("tandem: shm: regions of buffers are going")

var errTooManyRegions = errors.New("the buffers that the peer has lie in too many of them: make the arena's regions larger, or freeze fewer buffers")

// export is a place.
type export struct {
	hold ipc.Buffer // zero if the place is free
	use  uint64
}

// attach takes a place for a buffer, and returns its handle without the number. It waits while
// the peer holds as many buffers as it may.
func (e *exports) attach(ctx context.Context, b ipc.Buffer) (drivers.Handle, error) {
	own := b.Retain() // which panics after Release, and must not with the lock
	for pause := 10 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		if !e.lock.Lock(ctx, e.gone) {
			own.Release()
			return drivers.Handle{}, e.whyNot(ctx)
		}
		h, ok, err := e.tryAttach(ctx, own)
		e.lock.Unlock()
		if ok {
			return h, nil
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-e.gone:
				err = ipc.ErrDisconnected
			case <-time.After(pause):
				continue
			}
		}
		own.Release()
		return drivers.Handle{}, err
	}
}

func (e *exports) whyNot(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ipc.ErrDisconnected
}

// tryAttach is attach that does not wait for a place. own is the link's if it returns true. The lock is
// held.
func (e *exports) tryAttach(ctx context.Context, own ipc.Buffer) (h drivers.Handle, ok bool, err error) {
	if e.ended {
		return h, false, ipc.ErrDisconnected
	}
	e.reclaim(2) // so that memory is used again while it is in the cache
	if len(e.free) == 0 && len(e.places) == maxPlaces {
		if e.reclaim(maxPlaces); len(e.free) == 0 {
			return h, false, nil
		}
	}
	hold, region, offset, err := e.shared(ctx, own)
	if err != nil {
		return h, false, err
	}
	index, err := e.regionOf(ctx, region)
	if err != nil {
		if hold != own {
			hold.Release()
		}
		if err == errRegionsGoing {
			err = nil
		}
		return h, false, err
	}
	if hold != own {
		own.Release()
	}
	var place uint32
	if n := len(e.free); n > 0 {
		place = e.free[n-1]
		e.free = e.free[:n-1]
	} else {
		place = uint32(len(e.places))
		e.places = append(e.places, export{})
	}
	p := &e.places[place]
	p.hold = hold
	p.use++
	if len(e.sent) == cap(e.sent) && e.first > len(e.sent)/2 {
		e.sent = e.sent[:copy(e.sent, e.sent[e.first:])]
		e.first = 0
	}
	e.sent = append(e.sent, place)
	_, foreign := region.(*importedRegion)
	if e.sweeper == nil || foreign && !e.foreign {
		e.sweepLater(foreign)
	}
	return drivers.Handle{Place: place, Region: index, Offset: uint64(offset), Size: uint64(hold.Len())}, true, nil
}

// shared returns b, or a copy if that does not lie in shared memory, and where it lies.
func (e *exports) shared(ctx context.Context, b ipc.Buffer) (hold ipc.Buffer, region ipc.Region, offset int, err error) {
	backing, at := b.Backing()
	if region, offset = backing.Region(); region != nil {
		return b, region, offset + at, nil
	}
	if e.spill == nil {
		e.spill = ipc.NewArena(ipc.ArenaOptions{NoWait: true})
	}
	if hold, err = e.spill.Alloc(ctx, b.Len()); errors.Is(err, ipc.ErrExhausted) {
		e.reclaim(maxPlaces) // which the arena cannot while the lock is held
		hold, err = e.spill.Alloc(ctx, b.Len())
	}
	if err != nil {
		return hold, nil, 0, fmt.Errorf("tandem: shm: copy a buffer that is not in shared memory: %w", err)
	}
	copy(hold.Bytes(), b.Bytes())
	backing, at = hold.Backing()
	if region, offset = backing.Region(); region == nil {
		hold.Release()
		return hold, nil, 0, fmt.Errorf("%w: shm: the arena is not in shared memory", ipc.ErrUnsupported)
	}
	return hold, region, offset + at, nil
}

// regionOf returns the index of a region, and passes it to the peer if that does not have it. The
// lock is held.
//
// An index is not used again before all others were. The peer reads a frame before the records
// that came ahead of it, if it knows the region, and would take an earlier one of that index for
// this one.
func (e *exports) regionOf(ctx context.Context, r ipc.Region) (uint32, error) {
	if index, ok := e.regions[r]; ok {
		return index, nil
	}
	if e.passed == maxRegions {
		if e.reclaim(maxPlaces); e.going.Load() > 0 {
			return 0, errRegionsGoing
		}
		return 0, &ipc.ExhaustedError{Resource: "regions of shared memory on one link", Limit: fmt.Sprintf("the most are %d", maxRegions), Err: errTooManyRegions}
	}
	for e.stops[e.next] != nil || e.next == drivers.FileRegion {
		e.next++
	}
	index := e.next
	if err := e.pass(ctx, index, r.Size(), r.File()); err != nil {
		return 0, err
	}
	if e.regions == nil {
		e.regions, e.stops = make(map[ipc.Region]uint32), make(map[uint32]func())
	}
	e.next++
	e.passed++
	e.regions[r] = index
	e.stops[index] = r.Use(e)
	return index, nil
}

// Dropped implements [ipc.RegionUser].
func (e *exports) Dropped(r ipc.Region) {
	e.going.Add(1)
	e.telling.start(func() {
		defer e.going.Add(-1)
		if !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		index, ok := e.regions[r]
		if ok {
			delete(e.regions, r)
			delete(e.stops, index)
		}
		e.lock.Unlock()
		if !ok || e.forget(index) != nil || !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		e.passed-- // now that the peer forgets it
		e.lock.Unlock()
	})
}

// tellers are goroutines that tell the peer something. None starts after wait.
type tellers struct {
	mu     sync.Mutex
	closed bool
	all    sync.WaitGroup
}

func (t *tellers) start(tell func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.all.Go(tell)
	}
}

func (t *tellers) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.all.Wait()
}

// undo frees the place of a handle that was not sent.
func (e *exports) undo(place uint32) {
	_ = e.lock.Lock(context.Background(), nil)
	defer e.lock.Unlock()
	if e.ended {
		return
	}
	for i := len(e.sent) - 1; i >= e.first; i-- {
		if e.sent[i] == place {
			e.sent = append(e.sent[:i], e.sent[i+1:]...)
			e.places[place].use--
			e.release(place)
			return
		}
	}
	// The peer has released what it never got.
}

// release lets go of the buffer in a place. The lock is held.
func (e *exports) release(place uint32) {
	hold := e.places[place].hold
	e.places[place].hold = ipc.Buffer{}
	e.free = append(e.free, place)
	hold.Release()
}

// reclaim lets go of what the peer has released: of the oldest up to the first that it has not, or
// if n is large of all. The lock is held.
func (e *exports) reclaim(n int) {
	acks := e.acks.Load()
	if acks == nil {
		return
	}
	words := sealed.Words(acks.Bytes())
	for ; n > 0 && e.first < len(e.sent); n-- {
		place := e.sent[e.first]
		if words[place].Load() != e.places[place].use {
			break
		}
		e.first++
		e.release(place)
	}
	if e.first == len(e.sent) {
		e.sent, e.first = e.sent[:0], 0
	}
	if n < maxPlaces/2 {
		return
	}
	rest := e.sent[e.first:]
	kept := rest[:0]
	for _, place := range rest {
		if words[place].Load() == e.places[place].use {
			e.release(place)
		} else {
			kept = append(kept, place)
		}
	}
	e.sent = e.sent[:e.first+len(kept)]
}

// Reclaim implements [ipc.RegionUser].
func (e *exports) Reclaim() {
	if e.lock.TryLock() { // or somebody is sending, and sees to it
		e.reclaim(maxPlaces)
		e.lock.Unlock()
	}
}

// Held implements [ipc.RegionUser].
func (e *exports) Held(of func(ipc.Region) bool) (held int) {
	if !e.lock.TryLock() {
		return 1
	}
	defer e.lock.Unlock()
	e.reclaim(maxPlaces)
	for _, place := range e.sent[e.first:] {
		backing, _ := e.places[place].hold.Backing()
		if r, _ := backing.Region(); of(r) {
			held++
		}
	}
	return held
}

// How often the acks are looked at while nothing else does so: soon if the peer has what another
// process has made, which waits for that, and otherwise so that memory is given back some time.
const (
	minSweep     = time.Millisecond
	foreignSweep = 20 * time.Millisecond
	ownSweep     = time.Second
)

// sweepLater starts the sweeper if it does not run. The lock is held.
func (e *exports) sweepLater(foreign bool) {
	if foreign && !e.foreign && e.sweeper != nil {
		e.pause = minSweep
		e.sweeper.Reset(e.pause)
	}
	e.foreign = e.foreign || foreign
	if e.sweeper == nil {
		e.pause = minSweep
		e.sweeper = time.AfterFunc(e.pause, e.sweep)
	}
}

// sweep is what the sweeper does. It rests when the peer has nothing.
func (e *exports) sweep() {
	if !e.lock.Lock(context.Background(), e.gone) {
		return
	}
	defer e.lock.Unlock()
	if e.ended || e.sweeper == nil {
		return
	}
	e.reclaim(maxPlaces)
	if e.first == len(e.sent) {
		e.sweeper, e.foreign = nil, false
		return
	}
	most := ownSweep
	if e.foreign {
		most = foreignSweep
	}
	e.pause = min(2*e.pause, most)
	e.sweeper.Reset(e.pause)
}

// close lets go of all. The link has ended, and most likely the peer.
func (e *exports) close() {
	_ = e.lock.Lock(context.Background(), nil)
	defer e.lock.Unlock()
	if e.ended {
		return
	}
	e.ended = true
	if e.sweeper != nil {
		e.sweeper.Stop()
		e.sweeper = nil
	}
	for _, place := range e.sent[e.first:] {
		e.release(place)
	}
	e.sent, e.first = nil, 0
	for _, stop := range e.stops {
		stop()
	}
	if acks := e.acks.Swap(nil); acks != nil {
		acks.Close()
	}
	if e.spill != nil {
		e.spill.Close()
	}
}
