package ipc

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/tandemipc/tandem/ring/latest"
)

// A Latest is a value that this process writes and any number of processes read, in memory
// that they share: a configuration, a price, how far work has come. Who reads gets the last
// value that was stored, always a whole one, and does not get those that it has missed.
//
//	prices, err := ipc.NewLatest[Prices]()
//	...
//	err = prices.Store(p)
//
// T is a type that [Fixed] carries. Other processes get [Latest.File] (as a file of
// exec.Cmd.ExtraFiles, say) and open it with [OpenLatest]. They cannot write the memory, by
// the word of the kernel. The writer neither waits for readers nor knows them, and readers
// take no lock. docs/memory-model.md says why that is right.
//
// Its methods may be called by any goroutine; those that store take turns. If Close is never
// called, the memory is given back when the Latest is garbage.
type Latest[T any] struct {
	storing sync.Mutex
	shared  shared[*latest.Writer]
}

// NewLatest makes memory for a value of type T, which is the zero value of T until the first
// Store. The memory has room for four values at least, in whole pages.
//
// Errors say why [Fixed] cannot carry T; wrap [ErrUnsupported] on a system without sealed
// memory (it takes Linux 5.1) and [latest.ErrLayout] for a type of no bytes or of more than
// [latest.MaxSize]; or are the kernel's, for instance when memory or descriptors are short.
func NewLatest[T any]() (*Latest[T], error) {
	layout, err := layoutOf[T]()
	if err != nil {
		return nil, err
	}
	size := fixedSize[T]()
	slots := latest.Slots(size)
	n, err := latest.MemorySize(size, slots)
	if err != nil {
		return nil, err
	}
	l := new(Latest[T])
	err = makeShared(&l.shared, "tandem-latest", n, func(mem []byte) (*latest.Writer, error) {
		return latest.NewWriter(mem, size, slots, layout)
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// layoutOf returns a number for the memory layout of T, or why T cannot cross.
func layoutOf[T any]() (uint64, error) {
	layout, err := fixedLayout(reflect.TypeFor[T]())
	if err != nil {
		return 0, err
	}
	h := fnv.New64a()
	h.Write([]byte(layout))
	return h.Sum64(), nil
}

// Store makes v the latest value. A Load that begins after Store has returned, in any
// process, finds v or a later value; and who finds v sees all that this goroutine did to
// shared memory before. Store waits for nobody but other goroutines that store. It copies v,
// and makes no system call. The error is [ErrClosed] after Close.
func (l *Latest[T]) Store(v T) error {
	l.storing.Lock()
	defer l.storing.Unlock()
	m := l.shared.use()
	if m == nil {
		return ErrClosed
	}
	_, err := m.access.Store(memoryOf(&v))
	runtime.KeepAlive(m)
	return err
}

// File returns the descriptor of the memory, to pass to other processes. It stays the
// Latest's, and Close closes it; then File returns nil.
func (l *Latest[T]) File() *os.File { return l.shared.file() }

// Close gives this side's descriptor and memory back. Readers keep theirs, and load the last
// value for as long as they like. Closing again does nothing.
func (l *Latest[T]) Close() error { return l.shared.close() }

// A LatestReader loads the values that another process stores by its [Latest].
//
// Its methods may be called by any goroutine. If Close is never called, the memory is given
// back when the LatestReader is garbage.
type LatestReader[T any] struct {
	shared shared[*latest.Reader]
}

// OpenLatest maps the memory of another process's [Latest], read-only. It does not take f
// over: the caller closes it, and may do so at once.
//
// Errors say what is wrong with T, as with [NewLatest], or that the other side's type has
// another layout. They wrap [sealed.ErrSeals] for a file whose memory somebody but its maker
// could change, [latest.ErrLayout] for one that is no Latest, or [ErrUnsupported].
func OpenLatest[T any](f *os.File) (*LatestReader[T], error) {
	layout, err := layoutOf[T]()
	if err != nil {
		return nil, err
	}
	l := new(LatestReader[T])
	err = openShared(&l.shared, f, math.MaxInt32, func(mem []byte) (*latest.Reader, error) {
		r, err := latest.NewReader(mem)
		if err != nil {
			return nil, err
		}
		if size := fixedSize[T](); r.Size() != size || r.Tag() != layout {
			return nil, fmt.Errorf("%w: values of %d bytes with layout %#x, want those of %v, %d bytes with layout %#x", latest.ErrLayout, r.Size(), r.Tag(), reflect.TypeFor[T](), size, layout)
		}
		return r, nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Load returns the latest value and its version: 0 with the zero value if nothing has been
// stored yet, then 1, 2 and so on. A value is one that was stored, never parts of two, also
// if the writer has died or was stopped in the middle of a Store: then it is the value of the
// Store before. From one Load to a later one the version does not fall.
//
// Load takes no lock, makes no system call and does not allocate. It copies the value once,
// and again only if the writer has stored two more values or more while it did. See
// [latest.Reader.Load] for what is guaranteed exactly.
//
// The error is [ErrClosed] after Close, wraps [latest.ErrOvertaken] if the writer did that a
// thousand times in a row, or wraps [latest.ErrCorrupt] if the writer is not the one of this
// package, or harms its own memory. Such a writer can store any bytes as the value, too.
func (l *LatestReader[T]) Load() (v T, version uint64, err error) {
	m := l.shared.use()
	if m == nil {
		return v, 0, ErrClosed
	}
	version, err = m.access.Load(memoryOf(&v))
	runtime.KeepAlive(m)
	if err != nil {
		return *new(T), 0, err
	}
	return v, version, nil
}

// Version returns the version of the latest value, which tells at the cost of one load of
// memory whether there is a new one. After Close it is 0.
func (l *LatestReader[T]) Version() uint64 {
	m := l.shared.use()
	if m == nil {
		return 0
	}
	version := m.access.Version()
	runtime.KeepAlive(m)
	return version
}

// Next waits until the latest version is another one than after, and loads it. A loop that
// begins with 0 and goes on with the version that it got last sees each change, except for
// those that it is too slow for.
//
// The writer makes no system call to wake its readers, so Next looks from time to time: soon
// at first, and at intervals of up to an eighth of the time that it has waited already, or
// of 10 ms. It ends with an error when ctx does, and with those of Load. It does not
// notice that the writer has gone.
func (l *LatestReader[T]) Next(ctx context.Context, after uint64) (v T, version uint64, err error) {
	const shortest, longest = 50 * time.Microsecond, 10 * time.Millisecond
	var timer *time.Timer
	var began time.Time
	for {
		m := l.shared.use()
		if m == nil {
			return v, 0, ErrClosed
		}
		changed := m.access.Version() != after
		runtime.KeepAlive(m)
		if changed {
			return l.Load()
		}
		if timer == nil {
			began = time.Now()
			timer = time.NewTimer(shortest)
			defer timer.Stop()
		} else {
			timer.Reset(min(max(time.Since(began)/8, shortest), longest))
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return v, 0, ctx.Err()
		}
	}
}

// Close gives this side's memory back. Those who load at that moment finish first. Closing
// again does nothing.
func (l *LatestReader[T]) Close() error { return l.shared.close() }
