package shm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	lazyPlaces = 32 // buffers that may be released for a while before the sender looks
	lazyBytes  = 64 << 10

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
	peer   int             // its process id

	telling tellers // tell the peer of regions that have gone, and of acks

	acks atomic.Pointer[sealed.Memory] // the peer's, nil until they have come

	lock    sendlock.Lock // guards what follows
	ended   bool
	places  []export
	free    []uint32 // places
	sent    []uint32 // places that are used, in the order of their use; from first on
	first   int
	bytes   int // in them
	regions map[ipc.Region]*exportedRegion
	// last is the region that was looked for last, nil if there is none.
	last       ipc.Region
	lastPassed *exportedRegion
	stops      map[uint32]func() // by the index of the region: takes its notification back
	next       uint32            // index of a region
	passed     int               // regions that the peer has, and those that it has not forgotten yet
	spill      *ipc.Arena        // for buffers that do not lie in shared memory, nil before the first
	sweeper    *time.Timer
	pause      time.Duration // of the sweeper
	foreign    bool          // the peer may have what another process has made
	spilled    int           // places with what lies in spill

	leaving atomic.Int64 // regions that have gone, and of which the peer does not know yet
}

var errTooManyRegions = errors.New("the buffers that the peer has lie in too many of them: make the arena's regions larger, or freeze fewer buffers")

// export is a place.
type export struct {
	hold    ipc.Buffer // zero if the place is free
	region  *exportedRegion
	use     uint64
	spilled bool
}

// exportedRegion is a region that the peer has.
type exportedRegion struct {
	index uint32
	held  int  // places with buffers in it
	lost  bool // the peer could not map it
}

// attach takes places for all buffers of a frame, and appends their handles. It waits while the peer
// holds as many buffers as it may. Until there is room for all of them it takes no place: several
// senders that had a part each would wait for each other.
func (e *exports) attach(ctx context.Context, list []ipc.Attached[ipc.Buffer], handles []byte) ([]byte, error) {
	for pause := 10 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		if !e.lock.Lock(ctx, e.gone) {
			return nil, e.whyNot(ctx)
		}
		all, ok, err := e.tryAttach(ctx, list, handles)
		e.lock.Unlock()
		if ok || err != nil {
			return all, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-e.gone:
			return nil, ipc.ErrDisconnected
		case <-time.After(pause):
		}
	}
}

func (e *exports) whyNot(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ipc.ErrDisconnected
}

// tryAttach is attach that does not wait for room. The lock is held.
func (e *exports) tryAttach(ctx context.Context, list []ipc.Attached[ipc.Buffer], handles []byte) (all []byte, ok bool, err error) {
	if e.ended {
		return nil, false, ipc.ErrDisconnected
	}
	// To read an ack is a cache miss, since the peer has written it. So small buffers are
	// reclaimed many at once, and large ones soon, while they are in the cache.
	if len(e.sent)-e.first >= lazyPlaces || e.bytes >= lazyBytes {
		e.reclaim(2 * lazyPlaces)
	}
	room := func() bool { return len(e.free)+maxPlaces-len(e.places) >= len(list) }
	if !room() {
		if e.reclaim(maxPlaces); !room() {
			return nil, false, nil
		}
	}
	all = handles
	for i := range list {
		h, err := e.attachOne(ctx, list[i].What)
		if errors.Is(err, ipc.ErrExhausted) { // perhaps until the peer has released some
			e.reclaim(maxPlaces)
			h, err = e.attachOne(ctx, list[i].What)
		}
		if err != nil {
			e.undo(all[len(handles):])
			if errors.Is(err, ipc.ErrExhausted) && e.mayGetRoom(err) {
				return nil, false, nil
			}
			return nil, false, err
		}
		h.Number = list[i].Number
		all = h.Append(all)
	}
	return all, true, nil
}

// mayGetRoom reports whether what has failed with err will work when the peer has released some
// buffers, or knows that regions have gone. The lock is held.
func (e *exports) mayGetRoom(err error) bool {
	switch {
	case errors.Is(err, errTooManyRegions):
		return e.leaving.Load() > 0
	case errors.Is(err, errSpillFull):
		return e.spilled > 0
	}
	return false
}

// attachOne takes a place for a buffer, of which there is one. The lock is held.
func (e *exports) attachOne(ctx context.Context, b ipc.Buffer) (h drivers.Handle, err error) {
	hold, region, offset, spilled, err := e.shared(ctx, b)
	if err != nil {
		return h, err
	}
	passed, err := e.regionOf(ctx, region)
	if err != nil {
		hold.Release()
		return h, err
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
	p.hold, p.region, p.spilled = hold, passed, spilled
	e.bytes += hold.Len()
	passed.held++
	if spilled {
		e.spilled++
	}
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
	return drivers.Handle{Place: place, Region: passed.index, Offset: uint64(offset), Size: uint64(hold.Len())}, nil
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
	switch {
	case errors.Is(err, ipc.ErrExhausted) && len(data) <= ipc.DefaultArenaLimit:
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

// released frees a place whose use the peer has released. It does not block. It fails if the peer says
// so too often.
func (e *exports) released(place uint32, use uint64) (ok bool) {
	return e.telling.start(func() {
		if !e.lock.Lock(context.Background(), e.gone) {
			return
		}
		defer e.lock.Unlock()
		if i := slices.Index(e.sent[e.first:], place); i >= 0 && e.places[place].use == use {
			e.sent = slices.Delete(e.sent, e.first+i, e.first+i+1)
			e.release(place)
		}
	})
}

// tellers are goroutines that tell the peer something. None starts after wait.
type tellers struct {
	running atomic.Int64
	mu      sync.Mutex
	closed  bool
	all     sync.WaitGroup
}

// maxTellers is one for each place that the peer may say to have released, and as many for what this
// side has to say, and some.
const maxTellers = 2*maxPlaces + 4*maxRegions

// start starts one, and returns whether there are no more of them than a correct peer causes.
func (t *tellers) start(tell func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return true
	}
	if t.running.Add(1) > maxTellers {
		t.running.Add(-1)
		return false
	}
	t.all.Go(func() {
		defer t.running.Add(-1)
		tell()
	})
	return true
}

func (t *tellers) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.all.Wait()
}

// takeBack frees the places of handles that were not sent.
func (e *exports) takeBack(handles []byte) {
	_ = e.lock.Lock(context.Background(), nil)
	defer e.lock.Unlock()
	e.undo(handles)
}

// undo is takeBack when the lock is held.
func (e *exports) undo(handles []byte) {
	for len(handles) > 0 && !e.ended {
		h, rest, err := drivers.NextHandle(handles)
		if err != nil {
			return
		}
		handles = rest
		// A place whose use a hostile peer has released early is free already.
		if i := slices.Index(e.sent[e.first:], h.Place); i >= 0 {
			e.sent = slices.Delete(e.sent, e.first+i, e.first+i+1)
			e.places[h.Place].use--
			e.release(h.Place)
		}
	}
}

// release lets go of the buffer in a place. The lock is held.
func (e *exports) release(place uint32) {
	p := &e.places[place]
	hold := p.hold
	p.region.held--
	e.leaveLost(p.region)
	e.bytes -= hold.Len()
	p.hold, p.region = ipc.Buffer{}, nil
	if p.spilled {
		e.spilled--
		p.spilled = false
	}
	e.free = append(e.free, place)
	hold.Release()
}

// reclaim lets go of what the peer has released: of the n oldest up to the first that it has not, or
// with maxPlaces of all. The lock is held.
func (e *exports) reclaim(n int) {
	acks := e.acks.Load()
	if acks == nil {
		return
	}
	words, all := sealed.Words(acks.Bytes()), n >= maxPlaces
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
	if !all {
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
	if e.lock.TryLock() { // or somebody is sending
		e.reclaim(maxPlaces)
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
	if acks := e.acks.Swap(nil); acks != nil { // which may have come after the first time
		acks.Close()
	}
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
	if e.spill != nil {
		e.spill.Close()
	}
}
