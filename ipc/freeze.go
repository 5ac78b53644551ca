package ipc

import (
	"errors"
	"os"
	"runtime"
	"slices"

	"github.com/tandemipc/tandem/ring/sealed"
)

// Freeze returns a copy of the buffer that nobody can write, neither the sender nor anybody else:
// a receiver may check it and then use it, without a copy of its own ([Buffer.Frozen]). b stays the
// caller's. The copy has a memory file of its own. Making one costs the copy and some
// system calls, about 20 microseconds, and sending it to a process for the first time as much
// again on each side; a process has a descriptor for each one. So freeze what is large, and what
// its receivers would copy.
//
// A frozen buffer that is forgotten is counted and told where b would be.
//
// Freeze fails with an error that wraps [ErrExhausted] if memory or descriptors are short. It panics after Release.
func (b Buffer) Freeze() (Buffer, error) {
	data := b.Bytes()
	defer runtime.KeepAlive(b.h)
	if len(data) == 0 {
		return NewBuffer(&frozen{}), nil
	}
	var tell func(bytes int)
	if t, ok := b.h.has.block.Load().backing.(Teller); ok {
		tell = t.OnForgotten()
	}
	m, err := sealed.CreateFrozen("tandem-frozen", data)
	switch {
	case errors.Is(err, sealed.ErrUnsupported): // nor do other processes map anything
		return NewBuffer(&frozen{plain: slices.Clone(data), size: len(data), tell: tell}), nil
	case err != nil:
		return Buffer{}, shortage(err)
	}
	return NewBuffer(&frozen{memory: m, size: len(data), tell: tell}), nil
}

// frozen is the backing of a buffer that nobody can write, and its only region.
type frozen struct {
	RegionUsers
	memory *sealed.Memory // nil if it is empty, or the system has no such memory
	size   int
	plain  []byte
	tell   func(bytes int) // that it was forgotten; or nil
}

// Bytes implements [Backing].
func (f *frozen) Bytes() []byte {
	if f.memory == nil {
		return f.plain
	}
	return f.memory.Bytes()
}

// Region implements [Backing].
func (f *frozen) Region() (Region, int) {
	if f.memory == nil {
		return nil, 0
	}
	return f, 0
}

// Frozen implements [Backing].
func (f *frozen) Frozen() bool { return true }

// Free implements [Backing].
func (f *frozen) Free(forgotten bool) {
	if forgotten && f.tell != nil {
		f.tell(f.size)
	}
	for _, u := range f.All() {
		u.Dropped(f)
	}
	if f.memory != nil {
		f.memory.Close()
	}
}

// OnForgotten implements [Teller].
func (f *frozen) OnForgotten() func(bytes int) { return f.tell }

// File implements [Region].
func (f *frozen) File() *os.File { return f.memory.File() }

// Size implements [Region].
func (f *frozen) Size() int { return f.size }
