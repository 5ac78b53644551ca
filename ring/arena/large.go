package arena

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

// large has the large blocks: slabs of one block and no class, each in a region of its own.
// The arena's mu is held for all of it.
type large struct {
	slabs   []*slab // all, in no order
	idle    []*slab // those that are free, by size, and of one size the last freed first
	allocs  uint64
	used    int   // blocks
	asked   int64 // bytes
	rounded int64 // bytes of the regions of used blocks
}

// allocLarge is Alloc for blocks that are larger than those of classes, or negative.
func (a *Arena) allocLarge(n int) (*Block, error) {
	if n < 0 {
		return nil, fmt.Errorf("tandem: arena: a block of %d bytes", n)
	}
	if int64(n) > a.limit {
		return nil, a.tooLarge(n)
	}
	now := a.clock.Load()
	if now <= 0 {
		var closed bool
		if now, closed = a.startClock(); closed {
			return nil, ErrClosed
		}
	}
	b, err := a.tryLarge(n, now)
	if b != nil || err == ErrClosed {
		return b, err
	}
	a.grow.Lock()
	defer a.grow.Unlock()
	try := func() bool {
		b, err = a.tryLarge(n, now)
		return b != nil || err == ErrClosed
	}
	// What is on its way back has arrived now.
	if err == ErrFull && try() {
		return b, nil
	}
	a.giveBackUntil(try)
	return b, err
}

// tryLarge takes a block that is idle, or makes one.
func (a *Arena) tryLarge(n int, now int64) (*Block, error) {
	size := roundUp(n, a.granule)
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil, ErrClosed
	}
	if s := a.large.takeIdle(n, max(size, n+n/4)); s != nil {
		b := a.large.handOut(s, n, now)
		a.mu.Unlock()
		return b, nil
	}
	if a.reserved+int64(size) > a.limit {
		a.mu.Unlock()
		return nil, ErrFull
	}
	a.reserved += int64(size)
	a.mu.Unlock()
	r, err := a.makeRegion(size)
	if err != nil {
		return nil, err
	}
	s := newSlab(a, nil, r, 0, r.size, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	s.index = len(a.large.slabs)
	a.large.slabs = append(a.large.slabs, s)
	return a.large.handOut(s, n, now), nil
}

func (l *large) handOut(s *slab, n int, now int64) *Block {
	b := &s.blocks[0]
	b.n, b.born = n, now
	s.used = 1
	l.allocs++
	l.used++
	l.asked += int64(n)
	l.rounded += int64(s.size)
	return b
}

// takeIdle takes the smallest free block of n to most bytes, or returns nil.
func (l *large) takeIdle(n, most int) *slab {
	i := sort.Search(len(l.idle), func(i int) bool { return l.idle[i].size >= n })
	if i == len(l.idle) || l.idle[i].size > most {
		return nil
	}
	s := l.idle[i]
	l.idle = slices.Delete(l.idle, i, i+1)
	return s
}

// freeLarge takes a large block back.
func (a *Arena) freeLarge(b *Block) {
	s, l := b.slab, &a.large
	a.mu.Lock()
	n := b.n
	if n < 0 {
		a.mu.Unlock()
		panicFreedTwice()
	}
	b.n = -1
	s.used = 0
	l.used--
	l.asked -= int64(n)
	l.rounded -= int64(s.size)
	i := sort.Search(len(l.idle), func(i int) bool { return l.idle[i].size >= s.size })
	l.idle = slices.Insert(l.idle, i, s)
	closed := false
	if s.freedAt = a.clock.Load(); s.freedAt <= 0 {
		s.freedAt, closed = a.startClock()
	}
	a.mu.Unlock()
	if closed {
		a.sweepClosed()
	}
}

// oldestIdle returns the block that has been free for longest, or nil.
func (l *large) oldestIdle() (oldest *slab) {
	at := int64(math.MaxInt64)
	for _, s := range l.idle {
		if s.freedAt < at {
			oldest, at = s, s.freedAt
		}
	}
	return oldest
}

// remove takes a free block out.
func (l *large) remove(s *slab) {
	l.idle = slices.DeleteFunc(l.idle, func(i *slab) bool { return i == s })
	last := l.slabs[len(l.slabs)-1]
	l.slabs[s.index], last.index = last, s.index
	l.slabs[len(l.slabs)-1] = nil
	l.slabs = l.slabs[:len(l.slabs)-1]
}
