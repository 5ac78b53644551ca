package ipc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ring/arena"
)

// ArenaOptions say what an [Arena] is like. The zero value is useful.
type ArenaOptions struct {
	// Limit is the most memory of the arena, in bytes, all buffers and what is free between
	// them. 0 means [DefaultArenaLimit].
	Limit int64
	// NoWait makes Alloc fail with an error that wraps [ErrExhausted] while the arena is full,
	// rather than wait.
	NoWait bool
	// Idle is how long memory without buffers is kept before it is given back to the system. 0
	// means ten seconds, and less than 0 that it is kept until Trim or Close.
	Idle time.Duration
	// Prefault maps memory when it is taken from the system, so that filling a buffer for the
	// first time meets no page fault.
	Prefault bool
	// HugePages takes the system's huge pages, of which the administrator has to set some
	// aside. Alloc fails where there are too few.
	HugePages bool
	// Logger is told of buffers that were forgotten. If it is nil nobody is.
	Logger *slog.Logger
}

// DefaultArenaLimit is the most memory of an arena where nothing else is said, in bytes.
const DefaultArenaLimit = 256 << 20

// Arena makes buffers ([Buffer]) in memory that other processes can map, and that only this process
// can write. A process that gets a buffer can read the whole region of memory in which that lies, of
// four megabytes or of a single large buffer. So an arena is for receivers that may read all that is
// put into it. Clients and pools have one each.
//
// On systems without sealed memory an arena uses Go's own, and the bytes of its buffers travel.
//
// An Arena is safe for concurrent use.
type Arena struct {
	arena     *arena.Arena
	noWait    bool
	log       *slog.Logger
	forgotten atomic.Uint64

	mu      sync.Mutex
	regions map[*arena.Region]*arenaRegion
}

// NewArena returns an arena, which takes no memory before it is used.
func NewArena(o ArenaOptions) *Arena {
	if o.Limit == 0 {
		o.Limit = DefaultArenaLimit
	}
	a := &Arena{
		arena:  arena.New(arena.Options{Limit: o.Limit, Idle: o.Idle, Prefault: o.Prefault, HugePages: o.HugePages}),
		noWait: o.NoWait, log: o.Logger, regions: make(map[*arena.Region]*arenaRegion),
	}
	a.arena.OnDrop(a.dropped)
	return a
}

// Alloc returns a buffer of n bytes, which hold what they held before. While the arena is full it
// waits until enough is released, or ctx ends. Usually it takes tens of nanoseconds, also for
// large buffers if memory of theirs is free; new memory takes about 0.2 milliseconds a
// megabyte.
//
// Its errors are ctx.Err(), an error that wraps [ErrExhausted] for more bytes than the arena's
// limit, or if the arena does not wait, [ErrClosed] after Close, and what the system says if
// memory or descriptors are short. Alloc panics if n is negative.
func (a *Arena) Alloc(ctx context.Context, n int) (Buffer, error) {
	b, err := a.arena.Alloc(n)
	if err != nil {
		if b, err = a.wait(ctx, n, err); err != nil {
			return Buffer{}, err
		}
	}
	own := arenaBlocks.Get().(*arenaBlock)
	own.arena, own.block = a, b
	return NewBuffer(own), nil
}

// wait is Alloc when there is no room: what receivers have released meanwhile makes some.
func (a *Arena) wait(ctx context.Context, n int, err error) (*arena.Block, error) {
	for pause := 20 * time.Microsecond; errors.Is(err, arena.ErrFull); pause = min(2*pause, time.Millisecond) {
		a.reclaim()
		var b *arena.Block
		if b, err = a.arena.Alloc(n); !errors.Is(err, arena.ErrFull) {
			return b, err
		}
		if a.noWait {
			return nil, &ExhaustedError{Resource: "memory of the arena", Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	switch {
	case errors.Is(err, arena.ErrClosed):
		return nil, ErrClosed
	case errors.Is(err, arena.ErrTooLarge):
		return nil, &ExhaustedError{Resource: "memory of the arena", Err: err}
	}
	return nil, err
}

// reclaim makes all links that have buffers of the arena look at what their peers have released.
func (a *Arena) reclaim() {
	for u := range a.users() {
		u.Reclaim()
	}
}

// users returns the links that have buffers of the arena.
func (a *Arena) users() map[RegionUser]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	users := make(map[RegionUser]bool)
	for _, r := range a.regions {
		for _, u := range r.All() {
			users[u] = true
		}
	}
	return users
}

// owns reports whether a region is one of the arena's.
func (a *Arena) owns(r Region) bool {
	own, ok := r.(*arenaRegion)
	return ok && own.arena == a
}

// Trim gives all memory without buffers back to the system.
func (a *Arena) Trim() {
	a.reclaim()
	a.arena.Trim()
}

// Close makes further calls of Alloc fail, and gives the memory back: what has no buffers now, and
// the rest when they are released.
func (a *Arena) Close() error {
	a.reclaim()
	return a.arena.Close()
}

// ArenaStats are what an arena has.
type ArenaStats struct {
	// Limit is the most memory that the arena may have, and Reserved what it has, in Regions.
	Limit, Reserved int64
	Regions         int
	// Buffers is how many there are, Used how many bytes they take, and Free how many bytes
	// of Reserved are not used.
	Buffers    int
	Used, Free int64
	// Sent is how often other processes have a buffer that they have not released. A buffer
	// that two of them have counts twice.
	Sent int
	// Oldest is how long ago the oldest buffer was made, to a second. 0 means that there is none.
	Oldest time.Duration
	// Forgotten is how many buffers nobody has released, before the garbage collector did.
	Forgotten uint64
}

// Stats returns what the arena has.
func (a *Arena) Stats() ArenaStats {
	sent := 0
	for u := range a.users() {
		sent += u.Held(a.owns)
	}
	s := a.arena.Stats()
	return ArenaStats{
		Limit: s.Limit, Reserved: s.Reserved, Regions: s.Regions, Buffers: s.Blocks, Used: s.Used, Free: s.Free,
		Sent: sent, Oldest: s.Oldest, Forgotten: a.forgotten.Load(),
	}
}

// arenaRegion is a region of an arena as others see it.
type arenaRegion struct {
	*arena.Region
	RegionUsers
	arena *Arena
}

// regionOf returns the region that a block lies in.
func (a *Arena) regionOf(r *arena.Region) Region {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := a.regions[r]
	if own == nil {
		own = &arenaRegion{Region: r, arena: a}
		a.regions[r] = own
	}
	return own
}

// dropped is called when a region is given back.
func (a *Arena) dropped(r *arena.Region) {
	a.mu.Lock()
	own := a.regions[r]
	delete(a.regions, r)
	a.mu.Unlock()
	if own == nil {
		return
	}
	for _, u := range own.All() {
		u.Dropped(own)
	}
}

// arenaBlock is the backing of a buffer in an arena.
type arenaBlock struct {
	arena *Arena
	block *arena.Block
}

var arenaBlocks = sync.Pool{New: func() any { return new(arenaBlock) }}

// Bytes implements [Backing].
func (b *arenaBlock) Bytes() []byte { return b.block.Bytes() }

// Region implements [Backing].
func (b *arenaBlock) Region() (Region, int) {
	r := b.block.Region()
	if r == nil {
		return nil, 0
	}
	return b.arena.regionOf(r), b.block.Offset()
}

// Frozen implements [Backing].
func (b *arenaBlock) Frozen() bool { return false }

// Free implements [Backing].
func (b *arenaBlock) Free(forgotten bool) {
	if forgotten {
		b.arena.forgotten.Add(1)
		if b.arena.log != nil {
			b.arena.log.Warn("tandem: a buffer was forgotten, and is released by the garbage collector", "bytes", len(b.block.Bytes()))
		}
	}
	block := b.block
	*b = arenaBlock{}
	arenaBlocks.Put(b)
	block.Free()
}
