package broadcast

import (
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/bulk"
	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Record is one record, and what was lost before it.
type Record struct {
	// Data is a copy of the payload, in memory of the reader's own that the writer cannot change. It
	// is valid until the reader's next call of Next.
	Data []byte
	// Sequence is the record's number. The numbers of records that follow each other do so,
	// too, modulo 2^64.
	Sequence uint64
	// Lost is how many records the writer has overwritten before this one that the reader
	// has not seen: Sequence less that of the record before, less 1.
	Lost uint64
	// Tag is what the writer passed.
	Tag byte
}

// A Reader reads the records of a writer's ring, each by one copy:
//
//	for {
//		rec, ok, err := r.Next()
//		switch {
//		case err != nil:
//			return err
//		case ok:
//			handle(rec.Tag, rec.Data)
//		default:
//			err = r.Wait(ctx)
//		}
//	}
//
// The writer does not wait for a reader that is not reliable, nor does it know one without a
// segment of its own. When it has written more than the size of the ring since, what was there is
// overwritten, and the reader goes on half a ring behind the writer; Next says how many
// records it has lost.
//
// A reader trusts nobody: whatever the memory contains, each call ends after a bounded number of steps, and
// touches no other memory.
//
// A Reader is for one goroutine at a time, except for Interrupt. None of its methods may run
// after the memory is gone.
type Reader struct {
	_ [padding]byte // what else is on the heap is not written by the reader

	words  []uint64 // the ring
	data   []byte   // the same memory
	mask   uint64   // size - 1
	size   uint64
	half   uint64 // the largest record, word included
	intent *uint64
	seg    []byte

	next Point  // the next record
	buf  []byte // what Next returns

	published uint64 // what position says
	eighth    uint64 // publish when so much has gathered; never without a segment
	missed    uint64 // records lost since the last one that was returned
	lost      uint64 // in all

	// Of the own segment; nil without.
	own       []byte
	id        uint64
	position  *uint64
	waiting   *uint32
	spaceBell *uint32
	wanted    *uint32 // the writer's: does it want space?
	rung      uint32  // the value of wanted that the bell was last rung for
	epoch     uint32  // of waiting
	place     int     // where the writer has put the id, or might have
	known     bool    // it has been there
	cut       bool    // the writer no longer serves us
	waitedAt  uint64  // how many records had been read at the last Wait
	waits     int     // calls of Wait since then

	spin wait.Spinner
	err  error // sticky

	_ [padding]byte // other goroutines write below while the reader works above

	sleep       wait.Sleeper
	interrupted wait.Failure

	_ [padding]byte
}

// Lost returns how many records the reader has lost since it joined, those included that the
// next record that Next returns will report.
func (r *Reader) Lost() uint64 { return r.lost }

// Point returns where the next record is that Next returns if it is not overwritten before.
func (r *Reader) Point() Point { return r.next }

// Next returns a copy of the next record. It does not block: ok is false when there is none.
//
// The error is sticky: a [*ring.CorruptError] for words that no correct writer stores, or
// [ErrCutOff]. Records before have been returned.
//
// What the writer does meanwhile does not matter: a record is returned whole, as it was
// written, or counts as lost. If the writer overwrites records more quickly than they can be
// copied, again and again, Next gives up after some tries as if there were none, and Wait returns at
// once, but looks at its reasons to quit now and then.
func (r *Reader) Next() (rec Record, ok bool, err error) {
	pos := r.next.Position
	off := pos & r.mask
	// SYNC: pairs with the store in Writer.Publish.
	w := atomic.LoadUint64(&r.words[off/wordSize])
	n := w & lengthMask
	need := recordSize(n)
	// One comparison checks the flags and the stamp, and that w is not 0. The others also fail
	// for what is rare: a position to publish, losses to report, an error.
	if (w^pos<<(stampShift-3))>>flagShift != flagReady || need > r.half || need > r.size-off ||
		n > uint64(cap(r.buf)) || pos-r.published >= r.eighth || r.missed != 0 {
		return r.nextSlow()
	}
	buf := r.buf[:n]
	shared.CopyOut(buf, r.data[off+wordSize:off+wordSize+n:off+need])
	// SYNC: pairs with Writer.raise. If a byte that was copied was written for a later
	// position, this says so.
	if atomic.LoadUint64(r.intent)-pos > r.size {
		return r.nextSlow()
	}
	rec = Record{Data: buf, Sequence: r.next.Sequence, Tag: byte(w >> tagShift)}
	r.next.Position = pos + need
	r.next.Sequence++
	if r.spin.Holds() {
		r.spin.Stop()
	}
	return rec, true, nil
}

// nextSlow is Next without shortcuts.
//
//go:noinline
func (r *Reader) nextSlow() (Record, bool, error) {
	for range maxTries {
		w, ok, err := r.find()
		if !ok || err != nil {
			return Record{}, false, err
		}
		n := w & lengthMask
		if n > uint64(cap(r.buf)) {
			r.buf = bulk.Make(int(max(n, min(2*uint64(cap(r.buf)), r.half))))
		}
		buf := r.buf[:n]
		off := r.next.Position & r.mask
		shared.CopyOut(buf, r.data[off+wordSize:off+wordSize+n:off+recordSize(n)])
		if atomic.LoadUint64(r.intent)-r.next.Position > r.size {
			continue // find sees why
		}
		rec := Record{Data: buf, Sequence: r.next.Sequence, Lost: r.missed, Tag: byte(w >> tagShift)}
		r.missed = 0
		r.next.Position += recordSize(n)
		r.next.Sequence++
		r.spin.Stop()
		return rec, true, nil
	}
	return Record{}, false, nil
}

// maxTries bounds what one call does. Each try but the last found that the writer has
// overwritten the better part of the ring meanwhile.
const maxTries = 64

// find makes next a record that is there and was kept until now, and returns its word. If there is
// none, ok is false.
func (r *Reader) find() (w uint64, ok bool, err error) {
	if r.err != nil {
		r.spin.Stop()
		return 0, false, r.err
	}
	if r.next.Position-r.published >= r.eighth {
		r.settle()
	}
	for range maxTries {
		pos := r.next.Position
		w := atomic.LoadUint64(&r.words[pos&r.mask/wordSize])
		// SYNC: as in Next.
		switch ahead := atomic.LoadUint64(r.intent) - pos; {
		case int64(ahead) < 0:
			return 0, false, r.fail(corrupt(pos, "intent %d, want no less than what was read", pos+ahead))
		case ahead > r.size:
			if ok, err := r.rejoin(); err != nil {
				return 0, false, r.fail(err)
			} else if !ok {
				return 0, false, nil
			}
			continue
		}
		if w == 0 {
			if r.cut {
				return 0, false, r.fail(ErrCutOff)
			}
			r.idle()
			if r.cut {
				continue // a last look
			}
			return 0, false, nil
		}
		if err := r.check(pos, w); err != nil {
			return 0, false, r.fail(err)
		}
		if w>>flagShift&flagPad == 0 {
			return w, true, nil
		}
		// PAD ends at the end of the ring and is not valid at its begin.
		r.next.Position = pos + recordSize(w&lengthMask)
	}
	return 0, false, nil
}

// fail makes err what all later calls return.
func (r *Reader) fail(err error) error {
	r.err = err
	r.eighth = 0 // sends Next to nextSlow
	r.spin.Stop()
	return err
}

// check validates the word w of the record at position pos.
func (r *Reader) check(pos, w uint64) error {
	n := w & lengthMask
	flags, tag := byte(w>>flagShift), byte(w>>tagShift)
	rest := r.size - pos&r.mask
	switch {
	case flags != flagReady && flags != flagReady|flagPad:
		return corrupt(pos, "record flags %#x, want %#x or %#x", flags, flagReady, flagReady|flagPad)
	case w>>stampShift != pos>>3&0xffff:
		return corrupt(pos, "record stamp %#x, want %#x", w>>stampShift, pos>>3&0xffff)
	case n > r.half-wordSize:
		return corrupt(pos, "record of %d bytes, largest allowed %d", n, r.half-wordSize)
	case recordSize(n) > rest:
		return corrupt(pos, "record of %d bytes, largest before the end of the ring %d", n, rest-wordSize)
	case flags&flagPad != 0 && (n != rest-wordSize || tag != 0):
		return corrupt(pos, "padding of %d bytes with tag %d, want %d up to the end of the ring, and 0", n, tag, rest-wordSize)
	}
	return nil
}
