package ring

import (
	"errors"
	"os"
	"sync"

	"github.com/edsrzf/mmap-go"
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

// A Segment is one side's shared memory: a control page and a ring. The side that
// made it with [Create] writes it; every other, by [Open], can only read it, and
// the kernel sees to that.
//
// Its methods may be called by any goroutine.
type Segment struct {
	mu   sync.Mutex
	mem  mmap.MMap
	file *os.File
	size int
}

// Bytes returns the memory, for [Join]: [ControlSize] bytes and the ring. After
// Close it returns nil, and memory that was returned before must not be touched
// any more: that crashes the process. If the segment is the peer's, so does
// writing to it.
func (s *Segment) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mem
}

// File returns the memory's descriptor, to pass to the peer: by SCM_RIGHTS, or in
// exec.Cmd.ExtraFiles. It stays the segment's, and Close closes it. It is nil for
// a segment from [Open].
func (s *Segment) File() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file
}

// RingSize returns the size of the ring in bytes.
func (s *Segment) RingSize() int { return s.size }

// CloseFile closes the descriptor, once the peer has been sent it. The memory
// stays mapped, and File returns nil. Closing again does nothing.
func (s *Segment) CloseFile() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeFile()
}

func (s *Segment) closeFile() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// Close unmaps the memory and closes the descriptor. The kernel frees the memory
// when the last process that has it mapped or open has done so, or is dead.
// All users of the memory must have stopped: see [Producer.Interrupt],
// [Consumer.Interrupt] and [Consumer.Wake]. Closing again does nothing.
func (s *Segment) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.mem != nil {
		errs = append(errs, s.mem.Unmap())
		s.mem = nil
	}
	errs = append(errs, s.closeFile())
	return errors.Join(errs...)
}
