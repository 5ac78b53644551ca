package ring

import (
	"errors"
	"fmt"
	"os"

	"github.com/tandemipc/tandem/ring/sealed"
)

// An Option changes how [Create] and [Open] make a segment.
type Option func(*options)

type options struct {
	prefault bool
	start    uint64
}

// Prefault makes Create and Open map every page before they return, rather than
// at its first use: about 0.1 to 0.5 milliseconds per megabyte now, no page faults
// later. It has to be given on both sides, for each has a mapping of its own.
func Prefault() Option { return func(o *options) { o.prefault = true } }

// Start sets the position of the first record, a multiple of 8, for Create. The
// default is 0. It is there for tests of what happens when positions wrap.
func Start(pos uint64) Option { return func(o *options) { o.start = pos } }

func newOptions(opts []Option) options {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Supported returns nil if this system can make sealed segments, or else an error
// that says what is missing. If the answer is final, as nil and an error that wraps
// [ErrUnsupported] are, Supported remembers it. Any other error, such as that of a
// process that has no descriptor left, says nothing about the system, and the next call
// tries again. Other systems than Linux cannot: it takes Linux 5.1.
func Supported() error { return sealed.Supported() }

// A Segment is one side's shared memory: a control page and a ring. The side that
// made it with [Create] writes it; every other, by [Open], can only read it, and
// the kernel sees to that.
//
// Its methods may be called by any goroutine.
type Segment struct {
	mem  *sealed.Memory
	size int
}

// Create makes a segment of this process's own with a ring of ringSize bytes, a
// power of two from [MinSize] to [MaxSize]. Its memory is allocated and sealed:
// only this process, by this mapping, can write it from now on. It has no name and
// disappears with the last process that holds it.
//
// Errors wrap [ErrLayout] for a bad size or start, [ErrUnsupported] on a system
// without sealed memory, or the kernel's error, for instance when memory is short.
func Create(ringSize int, opts ...Option) (*Segment, error) {
	o := newOptions(opts)
	size, err := SegmentSize(ringSize)
	if err != nil {
		return nil, err
	}
	mem, err := sealed.Create("tandem-ring", size, append(o.memory(), sealed.Init(func(mem []byte) error {
		return Format(mem, o.start)
	}))...)
	if err != nil {
		return nil, err
	}
	return &Segment{mem: mem, size: ringSize}, nil
}

// Open maps the peer's segment, read-only. Before it does, it verifies that f is
// memory that is sealed as [Create] seals it, of a length that fits a ring, and
// allocated in full; errors wrap [ErrSeals] or [ErrLayout]. What the header says
// is verified by [Join]. Open does not take f over: the caller closes it, and may
// do so at once.
func Open(f *os.File, opts ...Option) (*Segment, error) {
	o := newOptions(opts)
	mem, err := sealed.Open(f, ControlSize+MinSize, ControlSize+MaxSize, append(o.memory(), sealed.Fits(func(size int) error {
		_, err := SegmentSize(size - ControlSize)
		return err
	}))...)
	if err != nil {
		var size *sealed.SizeError
		if errors.As(err, &size) {
			return nil, fmt.Errorf("%w: %s", ErrLayout, size.Reason("segment"))
		}
		return nil, err
	}
	return &Segment{mem: mem, size: len(mem.Bytes()) - ControlSize}, nil
}

// memory returns what package sealed has to know.
func (o options) memory() []sealed.Option {
	if o.prefault {
		return []sealed.Option{sealed.Prefault()}
	}
	return nil
}

// Bytes returns the memory, for [Join]: [ControlSize] bytes and the ring. After
// Close it returns nil, and memory that was returned before must not be touched
// any more: that crashes the process. If the segment is the peer's, so does
// writing to it.
func (s *Segment) Bytes() []byte { return s.mem.Bytes() }

// File returns the memory's descriptor, to pass to the peer: by SCM_RIGHTS, or in
// exec.Cmd.ExtraFiles. It stays the segment's, and Close closes it. It is nil for
// a segment from [Open].
func (s *Segment) File() *os.File { return s.mem.File() }

// RingSize returns the size of the ring in bytes.
func (s *Segment) RingSize() int { return s.size }

// CloseFile closes the descriptor, once the peer has been sent it. The memory
// stays mapped, and File returns nil. Closing again does nothing.
func (s *Segment) CloseFile() error { return s.mem.CloseFile() }

// Close unmaps the memory and closes the descriptor. The kernel frees the memory
// when the last process that has it mapped or open has done so, or is dead.
// All users of the memory must have stopped: see [Producer.Interrupt],
// [Consumer.Interrupt] and [Consumer.Wake]. Closing again does nothing.
func (s *Segment) Close() error { return s.mem.Close() }
