package arena

import "sync"

// A slab is a part of a region with blocks of one class, or all of the region of a large
// block.
type slab struct {
	arena  *Arena
	class  *class // nil for a large block
	region *Region
	off    int // in the region
	size   int // of a block
	units  uint64
	blocks []Block

	// The class's mu is held for these, or for a large block the arena's.
	free       int32 // index of the first free block, or -1
	used       int   // blocks that are not free
	freedAt    int64 // when the last block was freed, by the arena's clock
	index      int   // in class.slabs, or in large.slabs
	list       *list // that it is in: class.partial, class.empty, or none
	prev, next *slab
}

func newSlab(a *Arena, c *class, r *Region, off, size, blocks int) *slab {
	s := &slab{arena: a, class: c, region: r, off: off, size: size, blocks: make([]Block, blocks)}
	for i := range s.blocks {
		s.blocks[i] = Block{slab: s, n: -1, index: int32(i), next: int32(i) + 1}
	}
	s.blocks[blocks-1].next = -1
	return s
}

// oldest returns the time of the block that was handed out first, if any, or t if that was
// earlier.
func (s *slab) oldest(t int64) int64 {
	if s.used > 0 {
		for i := range s.blocks {
			if b := &s.blocks[i]; b.n >= 0 {
				t = min(t, b.born)
			}
		}
	}
	return t
}

// A list is a doubly linked list of slabs.
type list struct{ first, last *slab }

func (l *list) push(s *slab) {
	s.list, s.prev, s.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = s
	} else {
		l.last = s
	}
	l.first = s
}

func (l *list) remove(s *slab) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.last = s.prev
	}
	s.list, s.prev, s.next = nil, nil, nil
}

// A class has the slabs with blocks of one size.
type class struct {
	arena *Arena
	size  int
	units int // of a slab

	mu      sync.Mutex
	partial list    // slabs with some blocks free
	empty   list    // slabs with all blocks free, those freed last first
	slabs   []*slab // all, in no order
	allocs  uint64
	used    int   // blocks
	asked   int64 // bytes
	_       [64]byte
}

// take hands out a free block, or nil if there is none. The class's mu is held.
func (c *class) take(n int, now int64) *Block {
	s := c.partial.first
	if s == nil {
		if s = c.empty.first; s == nil {
			return nil
		}
		c.empty.remove(s)
		if len(s.blocks) > 1 {
			c.partial.push(s)
		}
	}
	b := &s.blocks[s.free]
	if s.free = b.next; s.free < 0 && s.list != nil {
		c.partial.remove(s)
	}
	b.n, b.born = n, now
	s.used++
	c.allocs++
	c.used++
	c.asked += int64(n)
	return b
}

// put takes a block back.
func (c *class) put(b *Block) {
	s := b.slab
	c.mu.Lock()
	n := b.n
	if n < 0 {
		c.mu.Unlock()
		panicFreedTwice()
	}
	b.n = -1
	c.asked -= int64(n)
	c.used--
	b.next, s.free = s.free, b.index
	s.used--
	if s.used > 0 {
		if s.list == nil {
			c.partial.push(s)
		}
		c.mu.Unlock()
		return
	}
	if s.list != nil {
		c.partial.remove(s)
	}
	c.empty.push(s)
	s.freedAt = c.arena.clock.Load()
	if s.freedAt > 0 {
		c.mu.Unlock()
		return
	}
	closed := false
	s.freedAt, closed = c.arena.startClock()
	c.mu.Unlock()
	if closed {
		c.arena.sweepClosed()
	}
}

// add adds a slab all of whose blocks are free. The class's mu is held.
func (c *class) add(s *slab) {
	s.index = len(c.slabs)
	c.slabs = append(c.slabs, s)
	c.empty.push(s)
}

// detach removes the slabs that have had no block since the time cutoff.
func (c *class) detach(cutoff int64) (slabs []*slab) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.empty.last; s != nil && s.freedAt <= cutoff; s = c.empty.last {
		c.empty.remove(s)
		last := c.slabs[len(c.slabs)-1]
		c.slabs[s.index], last.index = last, s.index
		c.slabs[len(c.slabs)-1] = nil
		c.slabs = c.slabs[:len(c.slabs)-1]
		slabs = append(slabs, s)
	}
	return slabs
}
