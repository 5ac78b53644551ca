package broadcast

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/tandemipc/tandem/ring/sealed"
)

// An Option changes how segments are made and opened.
type Option func(*options)

type options struct {
	prefault bool
	start    Point
}

// Prefault maps every page before Create or Open returns, rather than at its first use. Each
// process has a mapping of its own, and so its own choice.
func Prefault() Option { return func(o *options) { o.prefault = true } }

// Start sets the position and the sequence number of the first record, for Create. The
// default is the zero Point. It is there for tests of what happens when they wrap.
func Start(p Point) Option { return func(o *options) { o.start = p } }

func newOptions(opts []Option) options {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// memory returns what package sealed has to know.
func (o options) memory() []sealed.Option {
	if o.prefault {
		return []sealed.Option{sealed.Prefault()}
	}
	return nil
}

// A Segment is memory of a writer or of a reader. The side that made it, with [Create] or
// [CreateReader], writes it; every other, by [Open] or [OpenReader], can only read it, and the
// kernel sees to that.
//
// Its methods may be called by any goroutine.
type Segment struct{ mem *sealed.Memory }

// Create makes a writer's segment with a ring of ringSize bytes, a power of two from [MinSize]
// to [MaxSize]. Only this process, by this mapping, can write it from now on. It has no
// name and disappears with the last process that holds it.
//
// Errors wrap [ErrLayout] for a bad size or start, [ErrUnsupported] on a system without sealed
// memory, or the kernel's error, for instance when memory is short.
func Create(ringSize int, opts ...Option) (*Segment, error) {
	o := newOptions(opts)
	size, err := SegmentSize(ringSize)
	if err != nil {
		return nil, err
	}
	return create("tandem-broadcast", size, o, func(mem []byte) error { return Format(mem, o.start) })
}

// CreateReader makes a reader's own segment. Errors are those of [Create].
func CreateReader(opts ...Option) (*Segment, error) {
	return create("tandem-broadcast-reader", ReaderSize, newOptions(opts), FormatReader)
}

func create(name string, size int, o options, format func([]byte) error) (*Segment, error) {
	mem, err := sealed.Create(name, size, append(o.memory(), sealed.Init(format))...)
	if err != nil {
		return nil, err
	}
	return &Segment{mem}, nil
}

// Open maps a writer's segment, read-only. Before it does, it verifies that f is memory that is
// sealed as [Create] seals it, of a length that fits a ring, and allocated in full; errors wrap
// [ErrSeals] or [ErrLayout]. What the header says is verified by [NewReader]. Open does not take
// f over: the caller closes it, and may do so at once.
func Open(f *os.File, opts ...Option) (*Segment, error) {
	return open(f, ControlSize+MinSize, ControlSize+MaxSize, opts, func(size int) error {
		_, err := SegmentSize(size - ControlSize)
		return err
	})
}

// OpenReader is [Open] for a reader's own segment. What its header says is verified by
// [Writer.Add].
func OpenReader(f *os.File, opts ...Option) (*Segment, error) {
	return open(f, ReaderSize, ReaderSize, opts, func(int) error { return nil })
}

func open(f *os.File, min, max int, opts []Option, fits func(int) error) (*Segment, error) {
	mem, err := sealed.Open(f, min, max, append(newOptions(opts).memory(), sealed.Fits(fits))...)
	if err != nil {
		var size *sealed.SizeError
		if errors.As(err, &size) {
			return nil, fmt.Errorf("%w: %s", ErrLayout, size.Reason("segment"))
		}
		return nil, err
	}
	return &Segment{mem}, nil
}

// Bytes returns the memory, for [NewWriter], [NewReader] or [Writer.Add]. After Close it
// returns nil, and memory that was returned before must not be touched any more: that crashes
// the process. If the segment was opened, so does writing to it.
func (s *Segment) Bytes() []byte { return s.mem.Bytes() }

// File returns the memory's descriptor, to pass to other processes. It stays the segment's, and
// Close closes it. It is nil for a segment that was opened.
func (s *Segment) File() *os.File { return s.mem.File() }

// CloseFile closes the descriptor, once all have been sent it. The memory stays mapped, and
// File returns nil. Closing again does nothing.
func (s *Segment) CloseFile() error { return s.mem.CloseFile() }

// Close unmaps the memory and closes the descriptor. All users of the memory must have stopped:
// see [Writer.Close], [Peer.Remove] and [Reader.Close]. Closing again does nothing.
func (s *Segment) Close() error { return s.mem.Close() }

// newID returns a random id of a reader.
func newID() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.NativeEndian.Uint64(b[:]) | 1
}
