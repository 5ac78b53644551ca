package ring

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tandemipc/tandem/ring/bulk"
)

// DefaultMaxMessage is the largest message, in bytes, that Send sends and Message
// joins, until SetMaxMessage says otherwise.
const DefaultMaxMessage = 64 << 20

// A message of up to a quarter of the ring is one record, which the receiver
// reads where it lies. A larger one is split, in pieces of up to an eighth of the
// ring so that the receiver copies the first ones out while the sender writes
// the next:
//
//	first   MORE          total length u64, little-endian; then data
//	middle  MORE | CONT   data
//	last    CONT          data
//
// All pieces carry the message's tag. The pieces' data add up to the total. A
// record without CONT ends a message that is not complete: the sender has
// abandoned it. CONT without a message to continue is a violation.
const totalSize = 8

func (p *Producer) whole() uint64 { return p.size/4 - 2*wordSize }
func (p *Producer) piece() uint64 { return p.size/8 - wordSize }

// SetMaxMessage bounds the messages that Send accepts, in bytes of payload. It
// panics if n is negative.
func (p *Producer) SetMaxMessage(n int) { p.maxMessage = maxMessage(n) }

// SetMaxMessage bounds the messages that Message accepts, in bytes of payload: a
// peer that announces a larger one makes the ring corrupt. It also bounds the
// memory that joining takes. It panics if n is negative.
func (c *Consumer) SetMaxMessage(n int) { c.reassembler.max = maxMessage(n) }

func maxMessage(n int) uint64 {
	if n < 0 {
		panic(fmt.Sprintf("tandem: ring: largest message of %d bytes", n))
	}
	return uint64(n)
}

// Send appends the message head||body and publishes it, blocking while there is
// no space. A message that is too large for one record is split, and
// [Consumer.Message] joins it again.
//
// If ctx ends or Interrupt is called while part of the message is written, the
// message is abandoned: the receiver drops that part, and the next message is not
// affected. When there is room at once, Send looks neither at ctx nor at
// Interrupt.
//
// Errors: a [*SizeError] above the limit of [Producer.SetMaxMessage], and those of
// [Producer.WaitSpace]. It panics if a claim is outstanding.
func (p *Producer) Send(ctx context.Context, tag byte, head, body []byte) error {
	if err := p.SendBatched(ctx, tag, head, body); err != nil {
		return err
	}
	p.Publish()
	return nil
}

// SendBatched is Send, except that it leaves the message unpublished if there is
// room for it at once: call Publish, or Send, after the last one of a batch. If it
// has to block it publishes what is pending before, and a message that is split is
// published as it is written.
func (p *Producer) SendBatched(ctx context.Context, tag byte, head, body []byte) error {
	pos := p.pos
	off := pos & p.mask
	n := uint64(len(head)) + uint64(len(body))
	need := recordSize(n)
	if n > p.maxMessage || p.claimed >= 0 || n > p.size/4-2*wordSize || need > p.size-off || need+wordSize > p.limit-pos {
		return p.sendSlow(ctx, tag, head, body)
	}
	buf := p.data[off+wordSize : off+wordSize+n]
	if len(body) == 0 {
		p.fill(buf, head, off, need)
	} else {
		bulk.Copy(buf[copy(buf, head):], body)
	}
	w := word(pos, flagReady, tag, n)
	if p.first == 0 {
		p.first = w
	} else {
		p.words[off/wordSize] = w
	}
	p.pos = pos + need
	return nil
}

//go:noinline
func (p *Producer) sendSlow(ctx context.Context, tag byte, head, body []byte) error {
	n := uint64(len(head)) + uint64(len(body))
	if n > p.maxMessage || n > math.MaxInt-totalSize {
		return &SizeError{"message", int(min(n, math.MaxInt)), int(p.maxMessage)}
	}
	if n <= p.whole() {
		return p.sendPiece(ctx, 0, tag, head, body)
	}
	// The first piece is the length, then what fits of head, then of body.
	binary.LittleEndian.PutUint64(p.scratch[:], n)
	prefix := p.scratch[:]
	flags := byte(flagMore)
	for {
		room := int(p.piece()) - len(prefix)
		h := head[:min(len(head), room)]
		head = head[len(h):]
		b := body[:min(len(body), room-len(h))]
		body = body[len(b):]
		if len(head)+len(body) == 0 {
			flags &^= flagMore
		}
		if err := p.sendPieces(ctx, flags, tag, prefix, h, b); err != nil {
			return err
		}
		if flags&flagMore == 0 {
			return nil
		}
		prefix = nil
		flags |= flagCont
		p.Publish()
	}
}

func (p *Producer) sendPiece(ctx context.Context, flags, tag byte, head, body []byte) error {
	return p.sendPieces(ctx, flags, tag, nil, head, body)
}

// sendPieces commits a||b||c as one record, waiting for space.
func (p *Producer) sendPieces(ctx context.Context, flags, tag byte, a, b, c []byte) error {
	n := len(a) + len(b) + len(c)
	buf, err := p.Claim(ctx, n)
	if err != nil {
		return err
	}
	m := copy(buf, a)
	m += bulk.Copy(buf[m:], b)
	bulk.Copy(buf[m:], c)
	at := p.claimAt
	p.claimed = -1
	p.commit(at, flags, tag, uint64(n))
	return nil
}

// A Message is one message of the peer, joined if it was split. It has no more than
// four words, and so travels in registers.
type Message struct {
	// Data is the payload. If the message is not Owned it lies in the ring,
	// with all that is said at [Record.Data].
	Data []byte
	// Owned says that Data is the caller's to keep and to change, and that
	// the peer cannot.
	Owned bool
	// Tag is what the sender passed.
	Tag byte
}

// reassembler holds the pieces of a split message that have arrived.
type reassembler struct {
	max       uint64
	tag       byte
	active    bool
	buf       []byte // of capacity total; its length is what has arrived
	total     uint64
	discarded uint64
}

// Message returns the next message, and releases the one before. It does not
// block: ok is false when there is none that is complete; pieces that have arrived
// are kept. It is also false after many pieces, though there are more: then Ready is
// true. So a peer that sends pieces for ever keeps nobody here. Messages of one record
// are returned where they lie, split ones in memory of their own.
//
// The error is a [*CorruptError], sticky. It also reports what breaks the rules of
// splitting: a message above the limit of [Consumer.SetMaxMessage], pieces that do
// not add up to the total that was announced, a piece without a begin. Do not mix
// Message with Next while a message is being joined.
func (c *Consumer) Message() (Message, bool, error) {
	for range maxPieces {
		r, ok, err := c.Next()
		if !ok || err != nil {
			return Message{}, false, err
		}
		if r.flags&(flagMore|flagCont) == 0 && !c.reassembler.active {
			if uint64(len(r.Data)) > c.reassembler.max {
				return Message{}, false, c.violation("message of %d bytes, largest allowed %d", len(r.Data), c.reassembler.max)
			}
			return Message{Tag: r.Tag, Data: r.Data}, true, nil
		}
		m, ok, err := c.reassemble(r)
		if ok || err != nil {
			return m, ok, err
		}
	}
	return Message{}, false, nil
}

// maxPieces is how many pieces Message takes before it returns.
const maxPieces = 64

// Discarded returns how many messages the peer abandoned half-sent.
func (c *Consumer) Discarded() uint64 { return c.reassembler.discarded }

// reassemble takes one more record while a message is being joined, or its first piece.
func (c *Consumer) reassemble(r Record) (Message, bool, error) {
	part := &c.reassembler
	data := r.Data
	if !r.Cont() {
		if part.active {
			part.active = false
			part.discarded++
		}
		if !r.More() {
			if uint64(len(data)) > part.max {
				return Message{}, false, c.violation("message of %d bytes, largest allowed %d", len(data), part.max)
			}
			return Message{Tag: r.Tag, Data: data}, true, nil
		}
		if len(data) < totalSize {
			return Message{}, false, c.violation("first piece of %d bytes, want at least %d", len(data), totalSize)
		}
		// Loaded once: the peer can change it.
		total := binary.LittleEndian.Uint64(data)
		data = data[totalSize:]
		if total > part.max {
			return Message{}, false, c.violation("message of %d bytes, largest allowed %d", total, part.max)
		}
		// The buffer of a message that was abandoned serves again, so that
		// announcing and abandoning does not make us allocate.
		if uint64(cap(part.buf)) < total || uint64(cap(part.buf))/2 > total {
			Recycle(part.buf)
			part.buf = buffer(int(total))
		}
		part.active, part.tag, part.total, part.buf = true, r.Tag, total, part.buf[:0]
	} else if !part.active {
		return Message{}, false, c.violation("piece of a message without its begin")
	} else if r.Tag != part.tag {
		return Message{}, false, c.violation("piece with tag %d in a message with tag %d", r.Tag, part.tag)
	}
	have := uint64(len(part.buf)) + uint64(len(data))
	switch {
	case have > part.total:
		return Message{}, false, c.violation("pieces of %d bytes in a message of %d", have, part.total)
	case r.More() && have == part.total:
		return Message{}, false, c.violation("more pieces announced of a message that has its %d bytes", have)
	case !r.More() && have < part.total:
		return Message{}, false, c.violation("last piece ends at %d bytes of a message of %d", have, part.total)
	}
	part.buf = bulk.Append(part.buf, data)
	if r.More() {
		return Message{}, false, nil
	}
	m := Message{Tag: part.tag, Data: part.buf, Owned: true}
	part.active, part.buf = false, nil
	c.Release() // it is copied: no need to lease it, or to wait with freeing it
	return m, true, nil
}

// violation makes the ring corrupt because of the record last read.
func (c *Consumer) violation(format string, args ...any) error {
	c.reassembler.buf, c.reassembler.active = nil, false
	err := &CorruptError{c.start, fmt.Sprintf(format, args...)}
	c.fail(err)
	return err
}
