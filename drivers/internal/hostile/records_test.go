//go:build linux

package hostile

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tandemipc/tandem/ring"
)

// Words of the control area, as in ring/layout.go.
const (
	offMagic            = 0x000
	offVersion          = 0x008
	offSize             = 0x010
	offStart            = 0x018
	offConsumerPosition = 0x080
	offDataWaiting      = 0x100
	offSpaceWaiting     = 0x180
	offDataBell         = 0x200
	offSpaceBell        = 0x280
)

// The flags of a record.
const (
	ready = 1 << 0
	pad   = 1 << 1
	more  = 1 << 2
	cont  = 1 << 3
)

// records writes records into a ring, right or wrong ones. It has no idea of what is
// allowed but what its callers ask for.
type records struct {
	mu   sync.Mutex
	next uint64 // the position of the next record
}

// put, put32 and word access the words of our memory.
func (p *peer) put(off int, v uint64)   { store64(p.ours.Bytes()[off:], v) }
func (p *peer) put32(off int, v uint32) { store32(p.ours.Bytes()[off:], v) }
func (p *peer) word(off int) uint64     { return load64(p.ours.Bytes()[off:]) }

// forge writes a record's word where the honest side will look next, with the right stamp
// on top of that in word.
func (p *peer) forge(word uint64) {
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	at := p.records.next
	p.put(ring.ControlSize+int(at%ringSize), word^at>>3<<48)
	p.bell()
}

// bell wakes the honest side, wanted or not.
func (p *peer) bell() {
	p.put32(offDataBell, rand.Uint32())
	wake(p.ours.Bytes()[offDataBell:])
}

// message writes a message, in pieces if it has to.
func (p *peer) message(tag byte, b []byte) {
	if len(b) <= ringSize/4-16 {
		p.record(tag, ready, b)
		return
	}
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	flags := byte(ready | more)
	for b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(b))), b...); len(b) > 0; flags |= cont {
		n := min(len(b), ringSize/8-8)
		if n == len(b) {
			flags &^= more
		}
		p.writeRecord(tag, flags, b[:n])
		b = b[n:]
	}
}

// record writes one record with any flags.
func (p *peer) record(tag, flags byte, payload []byte) {
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	p.writeRecord(tag, flags, payload)
}

// writeRecord waits for room. Whoever waits for ever ends with this process.
func (p *peer) writeRecord(tag, flags byte, payload []byte) {
	r, mem := &p.records, p.ours.Bytes()[ring.ControlSize:]
	need := (uint64(len(payload)) + 15) &^ 7
	if rest := ringSize - r.next%ringSize; need > rest {
		p.room(rest + 8)
		store64(mem, 0)
		store64(mem[r.next%ringSize:], r.next>>3<<48|(ready|pad)<<40|(rest-8))
		r.next += rest
	}
	p.room(need + 8)
	at := r.next % ringSize
	copy(mem[at+8:], payload)
	r.next += need
	store64(mem[r.next%ringSize:], 0)
	store64(mem[at:], (r.next-need)>>3<<48|uint64(flags)<<40|uint64(tag)<<32|uint64(len(payload)))
	p.bell()
}

// storm writes the same record, of 8 or 16 bytes, for ever and as fast as it can.
func (p *peer) storm(tag, flags byte, payload []byte) {
	p.records.mu.Lock()
	mem := p.ours.Bytes()[ring.ControlSize:]
	low := uint64(flags)<<40 | uint64(tag)<<32 | uint64(len(payload))
	if p.records.next%uint64(8+len(payload)) != 0 {
		p.writeRecord(tag, flags, append(payload[:len(payload):len(payload)], make([]byte, 8)...))
	}
	const batch = ringSize / 8
	for size := uint64(8 + len(payload)); ; {
		for p.records.next+batch+8-load64(p.theirs.Bytes()[offConsumerPosition:]) > ringSize {
		}
		for range batch / size {
			at := p.records.next
			copy(mem[at%ringSize+8:], payload)
			p.records.next += size
			store64(mem[p.records.next%ringSize:], 0)
			store64(mem[at%ringSize:], at>>3<<48|low)
		}
		p.bell()
	}
}

func (p *peer) room(n uint64) {
	for p.records.next+n-load64(p.theirs.Bytes()[offConsumerPosition:]) > ringSize {
		time.Sleep(50 * time.Microsecond)
	}
}
