package arena

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ring/sealed"
)

var (
	// ErrFull reports that a block does not fit within the limit before others are freed.
	ErrFull = errors.New("tandem: arena: full")

	// ErrTooLarge reports a block that is larger than the limit.
	ErrTooLarge = errors.New("tandem: arena: too large a block")

	// ErrClosed reports that the arena is closed.
	ErrClosed = errors.New("tandem: arena: closed")
)

// Options say how an arena gets its memory and keeps it. The zero value is good.
type Options struct {
	// Limit is how many bytes all regions may have together. It is rounded up to a multiple
	// of 64 KiB, or of 2 MiB with HugePages. 0 means 1 GiB, or 256 MiB on 32-bit systems.
	Limit int64
	// Idle is how long memory without blocks is kept. It is given back up to two seconds
	// later, or up to Idle if that is less. 0 means 10 seconds; if it is negative, the arena
	// gives nothing back by itself.
	Idle time.Duration
	// Prefault maps all pages of a region when it is made (see [sealed.Prefault]).
	Prefault bool
	// HugePages takes regions from the system's huge pages of 2 MiB (see
	// [sealed.HugePages]). If there are too few, Alloc fails with an error that wraps
	// [sealed.ErrNoHugePages].
	HugePages bool
}

// An Arena is memory that its process hands out in blocks, and other processes may read. All
// methods may be called by any goroutine.
type Arena struct {
	limit   int64
	granule int // what sizes of regions are multiples of
	options []sealed.Option
	idle    time.Duration
	period  time.Duration // of ticks
	base    time.Time

	classes [numClasses]class
	clock   atomic.Int64 // see clock.go

	timerMu sync.Mutex
	timer   *time.Timer

	// grow is held while slabs are made and while regions are given back, so that whoever
	// lacks room waits for room that is on its way. Order of locks: grow, then a class's mu
	// or mu, then timerMu.
	grow    sync.Mutex
	counted uint64 // the blocks of slabs that had been handed out by the last tick

	mu       sync.Mutex
	closed   bool
	regions  []*Region // those of slabs
	reserved int64     // bytes of all regions, and of those that are being made
	large    large
	onDrop   []func(*Region)
}

// New returns an arena. It has no memory yet.
func New(o Options) *Arena {
	a := &Arena{limit: o.Limit, idle: o.Idle, granule: unit, base: time.Now()}
	if a.limit == 0 {
		a.limit = 1 << 30
		if math.MaxInt == math.MaxInt32 {
			a.limit = 256 << 20
		}
	}
	if o.Prefault {
		a.options = append(a.options, sealed.Prefault())
	}
	if o.HugePages {
		a.options = append(a.options, sealed.HugePages())
		a.granule = hugePage
	}
	a.limit = min(max(a.limit, 1), math.MaxInt/2)
	a.limit = int64(roundUp(int(a.limit), a.granule))
	if a.idle == 0 {
		a.idle = 10 * time.Second
	}
	a.idle = min(a.idle, math.MaxInt64/4) // with which can be calculated
	a.period = time.Second
	if a.idle > 0 {
		a.period = max(min(a.period, a.idle/2), time.Millisecond)
	}
	for i := range a.classes {
		size := classSize(i)
		a.classes[i].arena, a.classes[i].size, a.classes[i].units = a, size, slabUnits(size)
	}
	return a
}

// roundUp returns n, rounded up to a multiple of to.
func roundUp(n, to int) int { return (n + to - 1) / to * to }

// Alloc returns a block of n bytes, which may be 0. It does not wait for others to free
// theirs. Usually it takes tens of nanoseconds, also for large blocks that are used again; a
// new region takes about 0.4 milliseconds for each megabyte.
//
// Errors are [ErrFull] if the limit does not allow it now, wrap [ErrTooLarge] if it never
// will, are [ErrClosed], or say what the system is short of: memory, descriptors, addresses
// or huge pages. Before Alloc fails it gives idle memory back to the system and tries again.
func (a *Arena) Alloc(n int) (*Block, error) {
	if uint(n) > maxSmall {
		return a.allocLarge(n)
	}
	now := a.clock.Load()
	if now <= 0 {
		var closed bool
		if now, closed = a.startClock(); closed {
			return nil, ErrClosed
		}
	}
	c := &a.classes[classOf(n)]
	c.mu.Lock()
	b := c.take(n, now)
	c.mu.Unlock()
	if b == nil {
		return a.allocInNewSlab(c, n, now)
	}
	return b, nil
}

func (a *Arena) allocInNewSlab(c *class, n int, now int64) (*Block, error) {
	if int64(n) > a.limit {
		return nil, a.tooLarge(n)
	}
	a.grow.Lock()
	defer a.grow.Unlock()
	c.mu.Lock()
	b := c.take(n, now)
	c.mu.Unlock()
	if b != nil {
		return b, nil // somebody else has made a slab
	}
	s, err := a.makeSlab(c, now)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.add(s)
	b = c.take(n, now)
	c.mu.Unlock()
	return b, nil
}

func (a *Arena) tooLarge(n int) error {
	return fmt.Errorf("%w: %d bytes, and the limit is %d", ErrTooLarge, n, a.limit)
}

// makeSlab makes a slab for a class. grow is held.
func (a *Arena) makeSlab(c *class, now int64) (*slab, error) {
	var s *slab
	var err error
	try := func() bool {
		s, err = a.carve(c, c.units, now)
		return s != nil || err == ErrClosed
	}
	if try() || a.detach(math.MaxInt64) > 0 && try() {
		return s, err
	}
	a.giveBackUntil(try)
	if least := roundUp(c.size, unit) / unit; err == ErrFull && least < c.units {
		return a.carve(c, least, now) // with much unused, but there is nothing else
	}
	return s, err
}

// carve takes a slab out of a region, or of a new one. grow is held.
func (a *Arena) carve(c *class, units int, now int64) (*slab, error) {
	a.mu.Lock()
	for _, r := range a.regions {
		if s := r.carve(c, units, now); s != nil {
			a.mu.Unlock()
			return s, nil
		}
	}
	size := regionSize
	if room := (a.limit - a.reserved) / int64(a.granule) * int64(a.granule); room < regionSize {
		size = int(room)
	}
	if size < units*unit {
		a.mu.Unlock()
		return nil, ErrFull
	}
	a.reserved += int64(size)
	a.mu.Unlock()
	r, err := a.makeRegion(size)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.all = firstBits(min(r.size/unit, unitsMax))
	r.free = r.all
	a.regions = append(a.regions, r)
	return r.carve(c, units, now), nil
}

// carve takes a slab out of the region, if there is room. The arena's mu is held.
func (r *Region) carve(c *class, units int, now int64) *slab {
	set, first, ok := run(r.free, units)
	if !ok {
		return nil
	}
	r.free &^= set
	s := newSlab(c.arena, c, r, first*unit, c.size, units*unit/c.size)
	s.units, s.freedAt = set, now
	return s
}

// makeRegion makes a region of size bytes that are reserved already. Whatever is no region
// in the end is reserved no longer. Neither grow nor mu has to be held.
func (a *Arena) makeRegion(size int) (*Region, error) {
	r, err := newRegion(size, a.options)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.reserved -= int64(size)
		return nil, err
	}
	more := int64(r.size - size) // huge pages may be larger than they usually are
	if err = ErrFull; a.closed {
		err = ErrClosed
	}
	if a.closed || a.reserved+more > a.limit {
		a.reserved -= int64(size)
		r.close()
		return nil, err
	}
	a.reserved += more
	return r, nil
}

// OnDrop has fn called whenever a region is about to be given back, before its memory and
// descriptor are gone: there it may still be sent to others that it is going. No block lies
// in it. It is called by whoever gives the region back, a goroutine that frees, allocates or
// closes, or one of the arena's, and never twice at once. It must not call methods of the
// arena other than Stats, and should not take long. It is not called where there are no
// memory files.
func (a *Arena) OnDrop(fn func(*Region)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onDrop = append(slices.Clip(a.onDrop), fn)
}

// Close has the arena hand out nothing any more, and gives memory back: that without blocks
// now, and the rest when its last block is freed. Closing again does nothing.
func (a *Arena) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stopClock()
	a.grow.Lock()
	defer a.grow.Unlock()
	_, err := a.giveBack(math.MaxInt64)
	return err
}
