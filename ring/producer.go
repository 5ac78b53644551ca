package ring

import (
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/bulk"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Producer writes records into the local ring. There are two ways to use it.
// Copying:
//
//	err := p.Write(tag, payload) // or Append, Append, ..., Publish
//
// and in place, where the payload is built in the ring itself:
//
//	buf, err := p.TryClaim(1024)
//	n := encode(buf)
//	p.Commit(tag, n) // or p.Abort()
//	p.Publish()
//
// Records become visible to the consumer by Publish only, all that were
// committed since the last one at once.
//
// A Producer is for one goroutine at a time, except for [Producer.Interrupt],
// which any goroutine may call. None of its methods may run after the memory is
// gone.
type Producer struct {
	_ [padding]byte // what else is on the heap is not written by this goroutine

	// What every operation reads.
	words []uint64 // the ring
	data  []byte   // the same memory
	mask  uint64   // size - 1
	size  uint64
	half  uint64 // the largest record, word included

	pos     uint64 // behind the last committed record
	limit   uint64 // what the consumer is known to have freed, plus size
	first   uint64 // the word of the first unpublished record, 0 if there is none
	head    uint64 // behind the last published record: that record's position
	claimAt uint64 // position of the outstanding claim: pos, or the ring's next begin
	claimed int    // its bytes of payload, -1 if there is no claim

	waiting *uint32 // the peer's: does it want data?
	rung    uint32  // the value of waiting that the bell was last rung for

	consumed   uint64  // the consumer position last seen
	dataBell   *uint32 // ours
	space      *uint32 // ours: do we want space?
	consumer   *uint64 // the peer's consumer position
	epoch      uint32  // of space
	wanted     uint32  // the state in space
	err        error   // sticky corruption
	spin       wait.Spinner
	maxMessage uint64
	scratch    [8]byte // a split message's length

	_ [padding]byte // Interrupt writes below while the owner works above

	sleep       wait.Sleeper
	interrupted wait.Failure

	_ [padding]byte
}

func newProducer(local, remote []byte, h header) *Producer {
	return &Producer{
		words:      wordsOf(local[ControlSize:]),
		data:       local[ControlSize:],
		mask:       h.size - 1,
		size:       h.size,
		half:       h.size / 2,
		pos:        h.start,
		limit:      h.start + h.size,
		head:       h.start,
		consumed:   h.start,
		claimed:    -1,
		waiting:    u32At(remote, offDataWaiting),
		consumer:   u64At(remote, offConsumerPosition),
		dataBell:   u32At(local, offDataBell),
		space:      u32At(local, offSpaceWaiting),
		sleep:      wait.Sleeper{Bell: u32At(remote, offSpaceBell)},
		maxMessage: DefaultMaxMessage,
	}
}

// MaxRecord returns the largest payload of one record, in bytes: half the ring
// less 8. A record of this size fits whenever the ring is empty.
func (p *Producer) MaxRecord() int { return int(p.half - wordSize) }

// Pending reports whether there are committed records that are not published.
func (p *Producer) Pending() bool { return p.first != 0 }

// TryClaim returns n bytes of the ring to build the next record's payload in.
// They hold whatever was there before, and belong to the caller until Commit or
// Abort. Keep in mind that the peer can read them at once.
//
// It does not block. The error is [ErrFull] when there is no room now, a
// [*SizeError] when n exceeds [Producer.MaxRecord], a [*CorruptError] when the
// peer's position is impossible. On ErrFull nothing is published by itself:
// publish what is pending, or the consumer will never free anything.
//
// It panics if a claim is outstanding or n is negative.
func (p *Producer) TryClaim(n int) ([]byte, error) {
	pos := p.pos
	at := pos
	off := pos & p.mask
	need := recordSize(uint64(n))
	// need > half comes first: it keeps the sums behind it from overflowing.
	if p.claimed >= 0 || n < 0 || need > p.half || need > p.size-off || need+wordSize > p.limit-pos {
		if err := p.makeRoom(n); err != nil {
			return nil, err
		}
		if off+need > p.size {
			at, off = pos+p.size-off, 0
		}
	}
	p.claimed, p.claimAt = n, at
	end := off + wordSize + uint64(n)
	return p.data[off+wordSize : end : end], nil
}

// Commit makes the first n bytes of the claimed memory the next record. The
// consumer sees it after the next Publish. It panics if no claim is outstanding
// or n does not lie in it.
func (p *Producer) Commit(tag byte, n int) {
	if n < 0 || n > p.claimed {
		if p.claimed < 0 {
			panic("tandem: ring: commit without a claim")
		}
		panic(fmt.Sprintf("tandem: ring: commit of %d bytes, %d claimed", n, p.claimed))
	}
	p.claimed = -1
	p.commit(p.claimAt, 0, tag, uint64(n))
}

// Abort gives the claimed memory back. No padding takes its place: other than in
// a ring with several producers, nothing behind the claim can have been
// committed, so the next record simply goes to the same position. It panics if
// no claim is outstanding.
func (p *Producer) Abort() {
	if p.claimed < 0 {
		panic("tandem: ring: abort without a claim")
	}
	p.claimed = -1
}

// commit puts a record with n bytes of payload, which are there already, at
// position at: that is p.pos, or the ring's next begin.
func (p *Producer) commit(at uint64, flags, tag byte, n uint64) {
	w := word(at, flagReady|flags, tag, n)
	if at != p.pos {
		p.words[0] = w
		w = word(p.pos, flagReady|flagPad, 0, at-p.pos-wordSize)
	}
	if p.first == 0 {
		p.first = w // stays 0 in the ring until Publish
	} else {
		p.words[p.pos&p.mask/wordSize] = w
	}
	p.pos = at + recordSize(n)
}

// Publish makes all committed records visible to the consumer, by one store, and
// rings if it is parked. It does nothing if none are pending.
func (p *Producer) Publish() {
	w := p.first
	if w == 0 {
		return
	}
	p.words[p.pos&p.mask/wordSize] = 0
	// SYNC: pairs with the load of the word in Consumer.Next: who sees w sees
	// the bodies and words of the batch and the zero behind it. Pairs also
	// with Consumer.Arm, which stores waiting and then looks at the word.
	atomic.StoreUint64(&p.words[p.head&p.mask/wordSize], w)
	p.head, p.first = p.pos, 0
	if v := atomic.LoadUint32(p.waiting); v&stateMask == stateParked && v != p.rung {
		p.ring(v)
	}
}

// ring wakes a consumer that is parked with waiting value v.
//
//go:noinline
func (p *Producer) ring(v uint32) {
	p.rung = v
	// SYNC: pairs with Sleeper.Prepare of the peer.
	atomic.AddUint32(p.dataBell, 1)
	wait.FutexWake(p.dataBell)
}

// Append commits a record with a copy of payload, without publishing it. Errors
// are those of [Producer.TryClaim]. It panics if a claim is outstanding.
func (p *Producer) Append(tag byte, payload []byte) error {
	pos := p.pos
	off := pos & p.mask
	n := uint64(len(payload))
	need := recordSize(n)
	if p.claimed >= 0 || need > p.half || need > p.size-off || need+wordSize > p.limit-pos {
		return p.appendSlow(0, tag, payload, nil)
	}
	p.fill(p.data[off+wordSize:off+wordSize+n], payload, off, need)
	w := word(pos, flagReady, tag, n)
	if p.first == 0 {
		p.first = w
	} else {
		p.words[off/wordSize] = w
	}
	p.pos = pos + need
	return nil
}

const (
	lineSize   = 64
	maxOrdered = 4 * lineSize // beyond it copying takes longer than what fill saves
)

// fill copies payload into buf, the payload of a record at offset off that takes need bytes.
//
// The consumer polls the line of the first unpublished record's word. Once a store has
// brought that line here, the consumer asks for it back; if other lines are still on their
// way then, it gets the line, and publishing has to bring it here again. So what lies in
// that line is stored last.
func (p *Producer) fill(buf, payload []byte, off, need uint64) {
	first := lineSize - wordSize - off%lineSize
	if n := uint64(len(payload)); p.first != 0 || n <= first || n > maxOrdered {
		bulk.Copy(buf, payload)
		return
	}
	p.words[(off+need)&p.mask/wordSize] = 0 // as Publish does: it is in the line of the next record
	copy(buf[first:], payload[first:])
	copy(buf[:first], payload)
}

// appendSlow commits head||body where Append's fast path does not apply.
//
//go:noinline
func (p *Producer) appendSlow(flags, tag byte, head, body []byte) error {
	n := len(head) + len(body)
	buf, err := p.TryClaim(n)
	if err != nil {
		return err
	}
	bulk.Copy(buf[copy(buf, head):], body)
	at := p.claimAt
	p.claimed = -1
	p.commit(at, flags, tag, uint64(n))
	return nil
}

// Write appends a record with a copy of payload and publishes everything
// committed. It does not block. Errors are those of [Producer.TryClaim]; when
// there is one, nothing was appended or published.
func (p *Producer) Write(tag byte, payload []byte) error {
	if err := p.Append(tag, payload); err != nil {
		return err
	}
	p.Publish()
	return nil
}

// total is what a record of need bytes takes at the current position, with the
// padding before it and the zero behind it.
func (p *Producer) total(need uint64) uint64 {
	if rest := p.size - p.pos&p.mask; need > rest {
		return rest + need + wordSize
	}
	return need + wordSize
}

// checkSize panics on misuse and returns an error for a payload of n bytes that
// can never fit.
func (p *Producer) checkSize(n int) error {
	if p.claimed >= 0 {
		panic("tandem: ring: a claim is outstanding")
	}
	if n < 0 {
		panic(fmt.Sprintf("tandem: ring: claim of %d bytes", n))
	}
	if uint64(n) > p.half-wordSize {
		return &SizeError{"record", n, p.MaxRecord()}
	}
	return nil
}

// makeRoom returns nil if n bytes fit, also when that takes padding or a look at
// the consumer's position.
//
//go:noinline
func (p *Producer) makeRoom(n int) error {
	if err := p.checkSize(n); err != nil {
		return err
	}
	total := p.total(recordSize(uint64(n)))
	if total <= p.limit-p.pos {
		return nil
	}
	ok, err := p.refresh(total)
	if ok || err != nil {
		return err
	}
	// The consumer frees lazily. Let it know, look again, and leave the word
	// as it is: the next look that finds room clears it.
	if p.wanted == stateNone {
		p.want(statePolling)
		if ok, err = p.refresh(total); ok || err != nil {
			return err
		}
	}
	return ErrFull
}

// want tells the consumer what state we are in.
func (p *Producer) want(state uint32) {
	p.wanted = state
	p.epoch += epochStep
	// SYNC: pairs with Consumer.publish, which stores the position and then
	// loads this word.
	atomic.StoreUint32(p.space, p.epoch|state)
}

// refresh loads the consumer's position, once, validates it, and reports whether
// total bytes are free.
func (p *Producer) refresh(total uint64) (bool, error) {
	if p.err != nil {
		return false, p.err
	}
	// SYNC: pairs with Consumer.publish: what the consumer read below its
	// position, it read before we overwrite it.
	seen := atomic.LoadUint64(p.consumer)
	if seen != p.consumed {
		// By difference from the last value: from 0, not moved, up to
		// what was published since.
		if seen-p.consumed > p.head-p.consumed || seen%align != 0 {
			if seen == positionUnset {
				return false, nil // has not joined, so has freed nothing
			}
			p.limit = p.pos // sends every operation here
			p.err = &CorruptError{p.head, fmt.Sprintf(
				"consumer position %d, want a multiple of %d from %d to %d", seen, align, p.consumed, p.head)}
			return false, p.err
		}
		p.consumed = seen
		p.limit = seen + p.size
	}
	if p.limit-p.pos < total {
		return false, nil
	}
	if p.wanted != stateNone {
		p.want(stateNone)
	}
	return true, nil
}
