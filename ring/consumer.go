package ring

import (
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Record is one record of the peer's ring. It has no more than four words, and so
// travels in registers.
type Record struct {
	// Data is the payload. It lies in the ring: the peer can change it at
	// any time, and it is valid until the consumer's next call of Next,
	// Message, Wait or Release unless it is leased. It is read-only memory
	// when the ring is a mapping: writing to it crashes.
	Data []byte
	// Tag is what the producer passed.
	Tag byte

	flags byte
}

// More reports whether this is a piece of a split message, and not the last.
func (r Record) More() bool { return r.flags&flagMore != 0 }

// Cont reports whether this is a piece of a split message, and not the first.
func (r Record) Cont() bool { return r.flags&flagCont != 0 }

// A Consumer reads the records of the peer's ring. It reads a record where it
// lies, and gives the memory back when it goes on to the next one:
//
//	for {
//		r, ok, err := c.Next()
//		switch {
//		case err != nil:
//			return err
//		case ok:
//			handle(r.Tag, r.Data)
//		default:
//			err = c.Wait(ctx)
//		}
//	}
//
// To keep a record's memory for longer, see [Consumer.Lease]; to receive messages
// larger than a record, see [Consumer.Message].
//
// A Consumer is for one goroutine at a time, its reader, except for Ready, Wake,
// Interrupt, Interrupted, Position, RingSize, Sleep and [Lease.Release]. Passing the reader role from one
// goroutine to another takes synchronisation that orders the two. None of its
// methods may run after the memory is gone.
type Consumer struct {
	_ [padding]byte // what else is on the heap is not written by the reader

	// What every operation reads.
	words []uint64 // the peer's ring
	data  []byte   // the same memory
	mask  uint64   // size - 1
	size  uint64
	half  uint64 // the largest record, word included

	next      uint64 // behind the last record that was read: stored relaxed, loaded atomically by Ready
	armedAt   uint64 // while armed, the bell's value before it, times 2, plus 1: stored relaxed, loaded by Sleep
	start     uint64 // begin of the record that the user holds; == next if there is none
	published uint64 // the position that the producer knows, or an earlier one
	limit     uint64 // no record ends behind this
	quarter   uint64 // publish when so much has gathered; 0 while leasing

	wanted    *uint32 // the peer's: does it want space?
	rung      uint32  // the value of wanted that the bell was last rung for
	spaceBell *uint32 // ours
	position  *uint64 // ours: the consumer position
	waiting   *uint32 // ours: do we want data?
	armed     bool
	epoch     uint32 // of waiting

	spin   wait.Spinner
	spinAt uint64 // next, when spin's wait began

	leasing     bool
	leases      leases
	reassembler reassembler

	_ [padding]byte // other goroutines write below while the reader works above

	sleep       wait.Sleeper
	interrupted wait.Failure
	corrupt     wait.Failure
	group       atomic.Pointer[Group] // that it is in

	_ [padding]byte
}

func newConsumer(local, remote []byte, h header) *Consumer {
	c := &Consumer{
		words:     wordsOf(remote[ControlSize:]),
		data:      remote[ControlSize:],
		mask:      h.size - 1,
		size:      h.size,
		half:      h.size / 2,
		next:      h.start,
		start:     h.start,
		published: h.start,
		limit:     h.start + h.size - wordSize,
		quarter:   h.size / 4,
		wanted:    u32At(remote, offSpaceWaiting),
		spaceBell: u32At(local, offSpaceBell),
		position:  u64At(local, offConsumerPosition),
		waiting:   u32At(local, offDataWaiting),
		sleep:     wait.Sleeper{Bell: u32At(remote, offDataBell)},
		spinAt:    h.start - 1,
	}
	c.reassembler.max = DefaultMaxMessage
	return c
}

// RingSize returns the size of the peer's ring in bytes. Any goroutine may call it.
func (c *Consumer) RingSize() int { return int(c.size) }

// Position returns the stream position behind the last record that was read. It grows by what
// records take in the ring, padding included, and wraps. Any goroutine may call it.
func (c *Consumer) Position() uint64 { return atomic.LoadUint64(&c.next) }

// Next returns the next record, and releases the one before. It does not block:
// ok is false when there is none. The error is a [*CorruptError], sticky; records
// before the corrupt one have been returned.
//
// The pieces of a split message are records of their own here, see [Record.More]
// and [Consumer.Message].
func (c *Consumer) Next() (r Record, ok bool, err error) {
	pos := c.next
	off := pos & c.mask
	// SYNC: pairs with the store in Producer.Publish.
	w := atomic.LoadUint64(&c.words[off/wordSize])
	n := w & lengthMask
	need := recordSize(n)
	// One comparison checks the flags and the stamp, and that w is not 0. It
	// fails for what is rare, too: flags other than READY. So do the sums for
	// positions that have to be published, leases, and a corrupt ring.
	if (w^pos<<(stampShift-3))>>flagShift != flagReady || need > c.half || need > c.size-off ||
		need > c.limit-pos || pos-c.published >= c.quarter {
		return c.nextSlow(w)
	}
	c.start = pos
	shared.StoreRelaxed(&c.next, pos+need)
	if c.spin.Holds() {
		c.spin.Stop()
	}
	return Record{Tag: byte(w >> tagShift), Data: c.data[off+wordSize : off+wordSize+n : off+wordSize+n]}, true, nil
}

// nextSlow is Next without shortcuts, for the word w that was loaded at c.next.
//
//go:noinline
func (c *Consumer) nextSlow(w uint64) (Record, bool, error) {
	if err := c.corrupt.Get(); err != nil {
		c.spin.Stop()
		return Record{}, false, err
	}
	c.release()
	for {
		if w == 0 {
			c.idle()
			return Record{}, false, nil
		}
		pos := c.next
		off := pos & c.mask
		if err := c.check(pos, w); err != nil {
			c.fail(err)
			return Record{}, false, err
		}
		n := w & lengthMask
		if w>>flagShift&flagPad == 0 {
			c.start = pos
			shared.StoreRelaxed(&c.next, pos+recordSize(n))
			c.spin.Stop()
			return Record{
				Tag:   byte(w >> tagShift),
				Data:  c.data[off+wordSize : off+wordSize+n : off+wordSize+n],
				flags: byte(w >> flagShift),
			}, true, nil
		}
		c.start = pos + recordSize(n)
		shared.StoreRelaxed(&c.next, c.start)
		// A correct producer has published what follows PAD with it. PAD
		// ends at the end of the ring and is not valid at its begin, so
		// there is no second one.
		w = atomic.LoadUint64(&c.words[0])
	}
}

// check validates the word w of the record at position pos.
func (c *Consumer) check(pos, w uint64) error {
	bad := func(format string, args ...any) error {
		return &CorruptError{pos, fmt.Sprintf(format, args...)}
	}
	n := w & lengthMask
	flags := byte(w >> flagShift)
	rest := c.size - pos&c.mask
	switch {
	case flags&flagReady == 0:
		return bad("record word %#x, want 0 or the ready flag", w)
	case flags&^flagsAll != 0:
		return bad("record flags %#x, want none besides %#x", flags, flagsAll)
	case w>>stampShift != pos>>3&0xffff:
		return bad("record stamp %#x, want %#x", w>>stampShift, pos>>3&0xffff)
	case n > c.half-wordSize:
		return bad("record of %d bytes, largest allowed %d", n, c.half-wordSize)
	case recordSize(n) > rest:
		return bad("record of %d bytes, largest before the end of the ring %d", n, rest-wordSize)
	case flags&flagPad != 0 && (flags != flagReady|flagPad || byte(w>>tagShift) != 0):
		return bad("padding with flags %#x and tag %d, want flags %#x and tag 0", flags, byte(w>>tagShift), flagReady|flagPad)
	case flags&flagPad != 0 && n != rest-wordSize:
		return bad("padding of %d bytes, want %d up to the end of the ring", n, rest-wordSize)
	}
	if recordSize(n) > c.limit-pos {
		c.settle()
		if recordSize(n) > c.limit-pos {
			return bad("record of %d bytes, but only %d bytes of the ring are free", n, c.limit-pos)
		}
	}
	return nil
}

// fail makes the ring corrupt for good.
func (c *Consumer) fail(err error) {
	c.corrupt.Set(err)
	c.spin.Stop()
	c.limit = c.next // sends Next to nextSlow whatever the word
}

// release takes the record that the user holds as done with, and publishes the
// position if a quarter of the ring has gathered: one store per quarter, not per
// record, on a line that the producer then has to fetch.
func (c *Consumer) release() {
	moved := c.start != c.next
	c.start = c.next
	if c.leasing {
		if moved {
			c.settle()
		}
		return
	}
	if c.next-c.published >= c.quarter {
		c.publish(c.next)
		c.published = c.next
		c.limit = c.next + c.size - wordSize
	}
}

// idle is called on an empty poll, with nothing held. The line that it loads
// changes only when the producer runs short.
func (c *Consumer) idle() {
	if c.next != c.published && atomic.LoadUint32(c.wanted)&stateMask != stateNone {
		c.settle()
	}
}

// settle publishes the position up to which all is done with.
func (c *Consumer) settle() {
	if c.corrupt.Get() != nil {
		return // limit must stay where fail has put it
	}
	if c.leasing {
		c.settleLeases()
		return
	}
	if c.start != c.published {
		c.publish(c.start)
		c.published = c.start
		c.limit = c.start + c.size - wordSize
	}
}

// publish stores the consumer position and rings if the producer is parked. When
// there are leases the caller holds their lock.
func (c *Consumer) publish(pos uint64) {
	// SYNC: pairs with Producer.refresh: what was read below pos was read
	// before the producer overwrites it. Pairs also with Producer.want, which
	// stores wanted and then loads the position.
	atomic.StoreUint64(c.position, pos)
	if v := atomic.LoadUint32(c.wanted); v&stateMask == stateParked && v != c.rung {
		c.rung = v
		// SYNC: pairs with Sleeper.Prepare of the peer.
		atomic.AddUint32(c.spaceBell, 1)
		wait.FutexWake(c.spaceBell)
	}
}

// Release gives the last record's memory back to the producer, unless it is
// leased, and publishes the position now rather than lazily. Call it before
// doing something long that does not need the record.
func (c *Consumer) Release() {
	c.start = c.next
	c.settle()
}
