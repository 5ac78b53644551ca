package ipc

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
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
// limit, if the arena does not wait, or if the system is short of memory or descriptors, and [ErrClosed] after
// Close. Alloc panics if n is negative.
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
		if b, err = a.arena.Alloc(n); err == nil {
			return b, nil
		}
		if a.noWait || !errors.Is(err, arena.ErrFull) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	if errors.Is(err, arena.ErrClosed) {
		return nil, ErrClosed
	}
	return nil, shortage(err)
}

// reclaim makes all links that have buffers of the arena look at what their peers have released.
func (a *Arena) reclaim() {
	a.mu.Lock()
	users := make(map[RegionUser]bool)
	for _, r := range a.regions {
		for _, u := range r.All() {
			users[u] = true
		}
	}
	a.mu.Unlock()
	for u := range users {
		u.Reclaim()
	}
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
	// Holders are the processes that have been sent buffers and have not released all.
	Holders []ArenaHolder
	// Oldest is how long ago the oldest buffer was made, to a second. 0 means that there is none.
	Oldest time.Duration
	// Forgotten is how many buffers of the arena, and frozen copies of them, nobody has released
	// before the garbage collector did.
	Forgotten uint64
}

// ArenaHolder is a process that has buffers of an arena.
type ArenaHolder struct {
	// PID is its process id, as it knows it itself.
	PID int
	// Buffers is how many it has. One that was sent twice, and not released once, counts twice.
	Buffers int
}

// Stats returns what the arena has. It looks at what receivers have released, and may wait for a
// call that is being sent.
func (a *Arena) Stats() ArenaStats {
	a.reclaim()
	holders := a.holders()
	s := a.arena.Stats()
	return ArenaStats{
		Limit: s.Limit, Reserved: s.Reserved, Regions: s.Regions, Buffers: s.Blocks, Used: s.Used, Free: s.Free,
		Holders: holders, Oldest: s.Oldest, Forgotten: a.forgotten.Load(),
	}
}

// holders returns who has buffers, by their process ids.
func (a *Arena) holders() (holders []ArenaHolder) {
	a.mu.Lock()
	regions := slices.Collect(maps.Values(a.regions))
	a.mu.Unlock()
	counts := make(map[int]int)
	for _, r := range regions {
		for _, u := range r.All() {
			if pid, n := u.Held(r); n > 0 {
				counts[pid] += n
			}
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(counts)) {
		holders = append(holders, ArenaHolder{pid, counts[pid]})
	}
	return holders
}

// arenaRegion is a region of an arena as others see it.
type arenaRegion struct {
	*arena.Region
	RegionUsers
}

// regionOf returns the region that a block lies in.
func (a *Arena) regionOf(r *arena.Region) *arenaRegion {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := a.regions[r]
	if own == nil {
		own = &arenaRegion{Region: r}
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

// forgot takes that the garbage collector has found a buffer that nobody has released.
func (a *Arena) forgot(bytes int) {
	if a.log != nil {
		a.log.Warn("tandem: a buffer was forgotten, and is released by the garbage collector", "bytes", bytes)
	}
	a.forgotten.Add(1) // who sees that sees the log, too
}

// arenaBlock is the backing of a buffer in an arena.
type arenaBlock struct {
	arena  *Arena
	block  *arena.Block
	region atomic.Pointer[arenaRegion] // of block, nil before anybody asks
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
	own := b.region.Load()
	if own == nil {
		own = b.arena.regionOf(r)
		b.region.Store(own)
	}
	return own, b.block.Offset()
}

// Frozen implements [Backing].
func (b *arenaBlock) Frozen() bool { return false }

// OnForgotten implements [Teller].
func (b *arenaBlock) OnForgotten() func(bytes int) { return b.arena.forgot }

// Free implements [Backing].
func (b *arenaBlock) Free(forgotten bool) {
	if forgotten {
		b.arena.forgot(len(b.block.Bytes()))
	}
	block := b.block
	b.arena, b.block = nil, nil
	b.region.Store(nil)
	arenaBlocks.Put(b)
	block.Free()
}
