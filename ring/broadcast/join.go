package broadcast

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Join says with which record a reader begins.
type Join struct {
	kind int
	at   Point
}

const (
	joinNow = iota
	joinOldest
	joinAt
)

var (
	// Now is the first record that is published after [NewReader] was called, or one that was
	// published shortly before it returned. To find it takes a look at each record of a 64th of the ring and of one batch.
	Now = Join{kind: joinNow}

	// Oldest is the oldest record that is kept and that is known to begin a batch: what is
	// older is at most a 64th of the ring and a batch. The writer may overwrite it at any time.
	Oldest = Join{kind: joinOldest}
)

// At is the record at p, which comes from [Writer.Point], [Peer.Joined] or [Reader.Point]. If it
// was overwritten, the reader loses what is missing, as if it had been slow.
func At(p Point) Join { return Join{kind: joinAt, at: p} }

// NewReader returns a reader of the writer's segment seg, which may be mapped read-only, that
// begins at join.
//
// own is the reader's own segment, made with [CreateReader] or formatted with [FormatReader], or
// nil. With one, and from [Writer.Add] on, the reader can park and be rung for, and can be
// reliable. Without, or before, waiting for longer than a moment is looking again and again, with
// pauses of up to a millisecond. A segment serves one reader, once.
//
// The headers are copied, then validated; errors wrap [ErrLayout], or are a [*ring.CorruptError].
// Both memories must outlive the Reader.
func NewReader(seg, own []byte, join Join) (*Reader, error) {
	size, _, err := readHeader(seg)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		seg:    seg,
		words:  shared.Of(seg[ControlSize:]),
		data:   seg[ControlSize:],
		mask:   size - 1,
		size:   size,
		half:   size / 2,
		intent: shared.At64(seg, offIntent),
		eighth: math.MaxUint64,
		sleep:  wait.Sleeper{Bell: shared.At32(seg, offDataBell)},
	}
	if own != nil {
		if r.id, err = readID(own); err != nil {
			return nil, err
		}
		r.own = own
		r.position = shared.At64(own, offPosition)
		r.waiting = shared.At32(own, offDataWaiting)
		r.spaceBell = shared.At32(own, offSpaceBell)
		r.wanted = shared.At32(seg, offSpaceWaiting)
		if p := atomic.LoadUint64(r.position); p != positionUnset {
			return nil, fmt.Errorf("%w: reader's segment has been used before: it is at position %d", ErrLayout, p)
		}
	}
	if err := r.join(join); err != nil {
		return nil, err
	}
	r.published = r.next.Position
	if own != nil {
		r.eighth = size / 8
		r.publish(r.next.Position)
	}
	return r, nil
}

// join sets next.
func (r *Reader) join(join Join) error {
	if join.kind == joinAt {
		r.next = join.at
		if ahead := atomic.LoadUint64(r.intent) - r.next.Position; int64(ahead) < 0 || r.next.Position%align != 0 {
			return fmt.Errorf("%w: cannot join at position %d, want a multiple of %d up to %d", ErrLayout, r.next.Position, align, r.next.Position+ahead)
		}
		return nil
	}
	within := r.size
	if join.kind == joinNow {
		within = 0
	}
	for range maxTries {
		p, ok, err := r.findMark(within)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		r.next = p
		if join.kind == joinNow {
			if ok, err = r.skip(); err != nil {
				return err
			}
		}
		if ok {
			return nil
		}
	}
	return nil // at a mark, which may have been overwritten: as if we had been slow
}

// skip goes on from a mark up to where nothing is published yet. What was published before it
// began, it has passed when it has passed as many bytes as the ring has. If it was lapped, ok is false.
func (r *Reader) skip() (ok bool, err error) {
	for p := r.next; p.Position-r.next.Position < r.size; {
		w := atomic.LoadUint64(&r.words[p.Position&r.mask/wordSize])
		// SYNC: as in Next.
		if atomic.LoadUint64(r.intent)-p.Position > r.size {
			return false, nil
		}
		if w == 0 {
			r.next = p
			return true, nil
		}
		if err := r.check(p.Position, w); err != nil {
			return false, err
		}
		p.Position += recordSize(w & lengthMask)
		if w>>flagShift&flagPad == 0 {
			p.Sequence++
		}
		if p.Position-r.next.Position >= r.size {
			r.next = p
			return true, nil
		}
	}
	return true, nil
}

// rejoin goes on at a mark after the reader has been lapped: half a ring behind the writer, or less. If
// the writer is so quick that none is found, ok is false.
func (r *Reader) rejoin() (ok bool, err error) {
	if r.own != nil && r.service() == placeCutOff {
		return false, ErrCutOff
	}
	p, ok, err := r.findMark(r.half)
	if !ok || err != nil {
		return false, err
	}
	// Marks grow, and the newest is one that is kept, so it is ahead of what is not. A record
	// takes a word at least.
	passed, lost := p.Position-r.next.Position, p.Sequence-r.next.Sequence
	if int64(passed) <= 0 || lost > passed/wordSize {
		return false, corrupt(r.next.Position, "mark at position %d with sequence number %d, but next is %d", p.Position, p.Sequence, r.next.Sequence)
	}
	r.next = p
	r.missed += lost
	r.lost += lost
	return true, nil
}

// findMark returns the oldest mark that lies no more than within bytes before intent, or else
// the newest. If marks come so quickly that none stays, ok is false.
func (r *Reader) findMark(within uint64) (p Point, ok bool, err error) {
	for range maxTries {
		intent := atomic.LoadUint64(r.intent)
		count := atomic.LoadUint64(shared.At64(r.seg, offMarks))
		if count == 0 {
			return Point{}, false, corrupt(intent, "no mark, want one at least")
		}
		first, last := count-min(count, maxMarks-1), count-1
		ok = true
		for ok && first < last {
			mid := first + (last-first)/2
			if p, ok = r.readMark(mid); intent-p.Position <= within {
				last = mid
			} else {
				first = mid + 1
			}
		}
		if !ok {
			continue
		}
		if p, ok = r.readMark(last); ok {
			if p.Position%align != 0 {
				return Point{}, false, corrupt(p.Position, "mark at no multiple of %d", align)
			}
			return p, true, nil
		}
	}
	return Point{}, false, nil
}

// readMark returns the mark of a number. ok is false if it is no longer there, as a whole.
func (r *Reader) readMark(i uint64) (p Point, ok bool) {
	at := offMark + int(i%maxMarks)*markSize
	// SYNC: pairs with Writer.addMark: while mark i+64 is stored here, the count is that.
	p = Point{
		Position: atomic.LoadUint64(shared.At64(r.seg, at)),
		Sequence: atomic.LoadUint64(shared.At64(r.seg, at+8)),
	}
	return p, atomic.LoadUint64(shared.At64(r.seg, offMarks))-i < maxMarks
}

// service returns what the writer takes this reader for: placeCutOff if it has had a place once
// and does so no more.
func (r *Reader) service() uint64 {
	state, ok := r.placeState(r.place)
	for i := 0; !ok && i < MaxReaders; i++ {
		if state, ok = r.placeState(i); ok {
			r.place, r.known = i, true
		}
	}
	switch {
	case ok && (state == placeWatched || state == placeReliable):
		r.known = true
		return state
	case ok || r.known:
		return placeCutOff
	}
	return placeNone
}

// placeState returns the state of a place if this reader has it.
func (r *Reader) placeState(i int) (state uint64, ok bool) {
	at := offPlace + i*placeSize
	// SYNC: pairs with Writer.Add, which takes the old id away, stores the state, and then the
	// new id.
	id := shared.At64(r.seg, at)
	if atomic.LoadUint64(id) != r.id {
		return 0, false
	}
	state = atomic.LoadUint64(shared.At64(r.seg, at+8))
	return state, atomic.LoadUint64(id) == r.id
}
