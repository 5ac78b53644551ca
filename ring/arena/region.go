package arena

import (
	"errors"
	"os"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/sealed"
)

// A Region is one memory file of an arena. Its methods may be called by any goroutine, also
// after it was given back.
type Region struct {
	id   uint64
	size int
	mem  *sealed.Memory // nil where there are no memory files
	data []byte         // not changed while there are blocks

	// The arena's mu is held for these.
	free uint64 // the units that are in no slab
	all  uint64 // the units that there are
}

var lastRegion atomic.Uint64

// ID returns the region's number, which no other region of this process has or had. It is
// not 0.
func (r *Region) ID() uint64 { return r.id }

// File returns the descriptor of the region, to pass to processes that are to read it. It
// stays the region's, and is closed when the region is given back; from then on File returns
// nil.
func (r *Region) File() *os.File { return r.mem.File() }

// Size returns the size of the region in bytes. It is what the file has, so those who open
// it can be told what to expect.
func (r *Region) Size() int { return r.size }

// createMemory makes a memory file. Tests replace it.
var createMemory = sealed.Create

// newRegion makes a region of at least size bytes, with no units.
func newRegion(size int, opts []sealed.Option) (*Region, error) {
	mem, err := createMemory("tandem-arena", size, opts...)
	switch {
	case err == nil:
		data := mem.Bytes()
		return &Region{id: lastRegion.Add(1), size: len(data), mem: mem, data: data}, nil
	case errors.Is(err, sealed.ErrUnsupported):
		return &Region{id: lastRegion.Add(1), size: size, data: make([]byte, size)}, nil
	default:
		return nil, err
	}
}

func (r *Region) close() error {
	r.data = nil
	if r.mem == nil {
		return nil
	}
	return r.mem.Close()
}
