package latest

import (
	"fmt"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// Counters are words of 64 bits, each of which one process writes and any process reads.
// Those of [NewCounters] can be written, those of [OpenCounters] are for reading. Any number
// of goroutines may use them. An index that is out of range panics, as with a slice.
//
// Each access is one atomic operation, and all of them are sequentially consistent: who loads
// a counter sees all that its writer did before it stored that count, which includes earlier
// counts of other counters.
type Counters struct {
	mem    []byte
	n      int
	stride int
}

// NewCounters formats memory as n counters, all 0; see [CountersSize] for packed and for how
// long the memory has to be. It starts at a multiple of 8 and outlives the Counters. Errors
// wrap [ErrLayout].
func NewCounters(mem []byte, n int, packed bool) (*Counters, error) {
	c := &Counters{mem: mem, n: n, stride: strideOf(packed)}
	need, err := CountersSize(n, packed)
	if err != nil {
		return nil, err
	}
	if err := checkMemory(mem, need); err != nil {
		return nil, err
	}
	for i := range n {
		c.Store(i, 0)
	}
	writeHeader(mem, countersMagic, uint64(n), uint64(c.stride))
	return c, nil
}

// OpenCounters returns the counters in mem, which may be mapped read-only and outlives them.
// It checks the header once against the length of the memory, and uses its own copy from then
// on. Errors wrap [ErrLayout].
func OpenCounters(mem []byte) (*Counters, error) {
	var n, stride uint64
	if err := readHeader(mem, countersMagic, &n, &stride); err != nil {
		return nil, err
	}
	need, err := countersMemory(n, stride)
	if err != nil {
		return nil, err
	}
	if err := checkMemory(mem, need); err != nil {
		return nil, err
	}
	return &Counters{mem: mem, n: int(n), stride: int(stride)}, nil
}

func (c *Counters) word(i int) *uint64 {
	if uint(i) >= uint(c.n) {
		panic(fmt.Sprintf("tandem: latest: counter %d of %d", i, c.n))
	}
	return shared.At64(c.mem, offWords+i*c.stride)
}

// Len returns how many counters there are.
func (c *Counters) Len() int { return c.n }

// Add adds delta to a counter, modulo 2^64, and returns the new count. On memory that is
// mapped read-only it crashes, as Store does.
func (c *Counters) Add(i int, delta uint64) uint64 { return atomic.AddUint64(c.word(i), delta) }

// Store sets a counter.
func (c *Counters) Store(i int, v uint64) { atomic.StoreUint64(c.word(i), v) }

// Load returns a count.
func (c *Counters) Load(i int) uint64 { return atomic.LoadUint64(c.word(i)) }

// Snapshot appends all counts to dst. It loads one after the other, from the first to the
// last, so they are not of one moment: a count is never older than one before it in the
// slice. If the writer adds to "started" first and to "finished" later, and finished has the
// lower index, then no snapshot has more finished than started.
func (c *Counters) Snapshot(dst []uint64) []uint64 {
	for i := range c.n {
		dst = append(dst, c.Load(i))
	}
	return dst
}
