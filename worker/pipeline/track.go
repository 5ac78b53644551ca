package pipeline

import (
	"context"
	"sync"
)

// tracker knows which positions of the source are complete: those of which everything that came
// out was taken by the sink, skipped, or taken as a dead letter.
type tracker struct {
	reach uint64 // how far the source may be ahead of base

	mu   sync.Mutex
	room sync.Cond
	over bool // nobody waits for room any more
	base uint64
	next uint64 // positions before it were reserved by the source
	// done has a bit for each position from base to next, at the position modulo its size.
	done []uint64
	// open are the positions that are not complete, if the source numbers its records itself, and else nil. Then finished
	// are those that are, base counts them, next counts those that were reserved, and done is not used.
	open     map[uint64]struct{}
	finished []uint64
	// parts is how many records there are of a position that has not just one.
	parts map[uint64]int
	moved chan struct{} // has a token when base has moved on
	news  bool          // base has moved on, and nobody was told yet
}

func newTracker(from, reach uint64) *tracker {
	t := &tracker{reach: reach, base: from, next: from, done: make([]uint64, 1), parts: make(map[uint64]int), moved: make(chan struct{}, 1)}
	t.room.L = &t.mu
	return t
}

// reserve returns how many positions, up to n, the source may take next. It waits until there is
// one, and returns 0 when ctx has ended.
func (t *tracker) reserve(ctx context.Context, n uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.next-t.base >= t.reach && !t.over {
		t.room.Wait()
	}
	if t.over || ctx.Err() != nil {
		return 0
	}
	n = min(n, t.reach-(t.next-t.base))
	for t.open == nil && t.next+n-t.base > uint64(len(t.done))*64 {
		t.grow()
	}
	t.next += n
	return n
}

// giveBack says that the last n positions that were reserved are not used.
func (t *tracker) giveBack(n uint64) {
	t.mu.Lock()
	t.next -= n
	t.mu.Unlock()
}

// grow doubles the room for bits. t.mu is held.
func (t *tracker) grow() {
	old := t.done
	t.done = make([]uint64, 2*len(old))
	for pos := t.base; pos < t.next; pos++ {
		if bit(old, pos) {
			setBit(t.done, pos, true)
		}
	}
}

func bit(bits []uint64, pos uint64) bool {
	pos %= uint64(len(bits)) * 64
	return bits[pos/64]&(1<<(pos%64)) != 0
}

func setBit(bits []uint64, pos uint64, on bool) {
	pos %= uint64(len(bits)) * 64
	if on {
		bits[pos/64] |= 1 << (pos % 64)
	} else {
		bits[pos/64] &^= 1 << (pos % 64)
	}
}

// split says that a record has become n.
func (t *tracker) split(pos uint64, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if left := t.left(pos) + n - 1; left == 0 {
		t.complete(pos)
		t.tell()
	} else {
		t.parts[pos] = left
	}
}

func (t *tracker) left(pos uint64) int {
	if n, ok := t.parts[pos]; ok {
		return n
	}
	return 1
}

// took says that a record is done with.
func (t *tracker) took(id ID) {
	t.mu.Lock()
	t.took1(id)
	t.tell()
	t.mu.Unlock()
}

// tookItems says that records are done with.
func tookItems[T any](t *tracker, items []Item[T]) {
	t.mu.Lock()
	for i := range items {
		t.took1(items[i].ID)
	}
	t.tell()
	t.mu.Unlock()
}

// took1 is took. t.mu is held.
func (t *tracker) took1(id ID) {
	if len(t.parts) == 0 {
		t.complete(id.Pos)
		return
	}
	if left := t.left(id.Pos) - 1; left == 0 {
		t.complete(id.Pos)
	} else {
		t.parts[id.Pos] = left
	}
}

// complete notes that a position is complete; tell is to be called then. t.mu is held.
func (t *tracker) complete(pos uint64) {
	if len(t.parts) > 0 {
		delete(t.parts, pos)
	}
	switch {
	case t.open != nil:
		t.leave(pos)
		t.base++
	case pos != t.base:
		setBit(t.done, pos, true)
		return
	default:
		for t.base++; t.base < t.next && bit(t.done, t.base); t.base++ {
			setBit(t.done, t.base, false)
		}
	}
	t.news = true
}

// tell wakes who waits for base to move on, if it has. t.mu is held.
func (t *tracker) tell() {
	if !t.news {
		return
	}
	t.news = false
	t.room.Signal()
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// end makes nobody wait for room any more.
func (t *tracker) end() {
	t.mu.Lock()
	t.over = true
	t.room.Broadcast()
	t.mu.Unlock()
}

// low returns the position before which all are complete, or how many are if the source numbers them itself.
func (t *tracker) low() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base
}

// checkpoint returns what is in flight.
func (t *tracker) checkpoint() Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Checkpoint{Position: t.next}
	for pos := t.base; pos < t.next; pos++ {
		if bit(t.done, pos) {
			continue
		}
		if n := len(c.InFlight); n > 0 && c.InFlight[n-1].To == pos {
			c.InFlight[n-1].To++
		} else {
			c.InFlight = append(c.InFlight, Span{pos, pos + 1})
		}
	}
	return c
}
