package ipc

import (
	"math"
	"os"
	"runtime"

	"github.com/tandemipc/tandem/ring/latest"
)

// Counters are numbers that this process counts up and any number of processes read, in
// memory that they share: requests served, bytes sent, for a program that watches.
//
// Other processes get [Counters.File] and open it with [OpenCounters]. They cannot write the
// memory, by the word of the kernel. An index that is out of range panics, as with a slice.
// Each access is one atomic operation, without a system call, and sequentially consistent:
// who loads a count sees the counts that this process has stored before it.
//
// Its methods may be called by any goroutine. If Close is never called, the memory is given
// back when the Counters are garbage.
type Counters struct{ shared shared[*latest.Counters] }

// A CountersOption changes how [NewCounters] lays counters out.
type CountersOption interface{ applyCounters(*countersOptions) }

type countersOptions struct{ packed bool }

type packedOption struct{}

func (packedOption) applyCounters(o *countersOptions) { o.packed = true }

// WithPackedCounters puts counters side by side, 8 bytes each. By default each has 128 bytes
// to itself, so that goroutines which count different things do not slow each other. Packed
// ones are for many counters, or for those of one goroutine.
func WithPackedCounters() CountersOption { return packedOption{} }

// NewCounters makes memory for n counters, all 0. Errors wrap [latest.ErrLayout] if n is not
// from 1 to [latest.MaxCounters], [ErrUnsupported] on a system without sealed memory (it
// takes Linux 5.1), or are the kernel's.
func NewCounters(n int, opts ...CountersOption) (*Counters, error) {
	var o countersOptions
	for _, opt := range opts {
		opt.applyCounters(&o)
	}
	size, err := latest.CountersSize(n, o.packed)
	if err != nil {
		return nil, err
	}
	c := new(Counters)
	err = makeShared(&c.shared, "tandem-counters", size, func(mem []byte) (*latest.Counters, error) {
		return latest.NewCounters(mem, n, o.packed)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Add adds delta to counter i, modulo 2^64, and returns the new count. After Close it does
// nothing, and returns 0.
func (c *Counters) Add(i int, delta uint64) (count uint64) {
	if m := c.shared.use(); m != nil {
		count = m.access.Add(i, delta)
		runtime.KeepAlive(m)
	}
	return count
}

// Store sets counter i. After Close it does nothing.
func (c *Counters) Store(i int, count uint64) {
	if m := c.shared.use(); m != nil {
		m.access.Store(i, count)
		runtime.KeepAlive(m)
	}
}

// Load returns counter i, and 0 after Close.
func (c *Counters) Load(i int) uint64 { return loadCounter(&c.shared, i) }

// Snapshot is [CountersReader.Snapshot].
func (c *Counters) Snapshot(dst []uint64) []uint64 { return snapshotCounters(&c.shared, dst) }

// Len returns how many counters there are, and 0 after Close.
func (c *Counters) Len() int { return lenCounters(&c.shared) }

// File returns the descriptor of the memory, to pass to other processes. It stays the
// Counters', and Close closes it; then File returns nil.
func (c *Counters) File() *os.File { return c.shared.file() }

// Close gives this side's descriptor and memory back. Readers keep theirs, with the last
// counts. Closing again does nothing.
func (c *Counters) Close() error { return c.shared.close() }

// A CountersReader reads the [Counters] of another process.
//
// Its methods may be called by any goroutine. If Close is never called, the memory is given
// back when the CountersReader is garbage.
type CountersReader struct{ shared shared[*latest.Counters] }

// OpenCounters maps the memory of another process's [Counters], read-only. It does not take f
// over: the caller closes it, and may do so at once. Errors wrap [sealed.ErrSeals] for a file
// whose memory somebody but its maker could change, [latest.ErrLayout] for one that is no
// Counters, or [ErrUnsupported].
func OpenCounters(f *os.File) (*CountersReader, error) {
	r := new(CountersReader)
	if err := openShared(&r.shared, f, math.MaxInt32, latest.OpenCounters); err != nil {
		return nil, err
	}
	return r, nil
}

// Load returns counter i, and 0 after Close.
func (r *CountersReader) Load(i int) uint64 { return loadCounter(&r.shared, i) }

// Snapshot appends all counts to dst, or none after Close. It loads one after the other, from the first to
// the last, so they are not of one moment: a count is never older than one before it in the
// slice. If the maker adds to "started" first and to "finished" later, and finished has the
// lower index, then no snapshot has more finished than started.
func (r *CountersReader) Snapshot(dst []uint64) []uint64 { return snapshotCounters(&r.shared, dst) }

// Len returns how many counters there are, and 0 after Close.
func (r *CountersReader) Len() int { return lenCounters(&r.shared) }

// Close gives this side's memory back. Closing again does nothing.
func (r *CountersReader) Close() error { return r.shared.close() }

func loadCounter(s *shared[*latest.Counters], i int) (count uint64) {
	if m := s.use(); m != nil {
		count = m.access.Load(i)
		runtime.KeepAlive(m)
	}
	return count
}

func snapshotCounters(s *shared[*latest.Counters], dst []uint64) []uint64 {
	if m := s.use(); m != nil {
		dst = m.access.Snapshot(dst)
		runtime.KeepAlive(m)
	}
	return dst
}

func lenCounters(s *shared[*latest.Counters]) int {
	if m := s.use(); m != nil {
		return m.access.Len()
	}
	return 0
}
