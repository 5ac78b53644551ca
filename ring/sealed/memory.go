package sealed

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/edsrzf/mmap-go"
)

// An Option changes how memory is made or opened.
type Option func(*options)

type options struct {
	prefault bool
	huge     bool
	init     func([]byte) error
	fits     func(int) error
}

// Prefault maps every page before Create, CreateFrozen or Open returns, rather than at its
// first use: about 0.1 to 0.5 milliseconds per megabyte now, no page faults later. Each
// process has a mapping of its own, and so its own choice.
func Prefault() Option { return func(o *options) { o.prefault = true } }

// HugePages makes Create take the system's huge pages (2 MiB on most systems), of which the
// administrator has to set some aside (vm.nr_hugepages). The size is rounded up to whole
// ones. If there are too few, Create fails with an error that wraps [ErrNoHugePages].
// CreateFrozen and Open ignore this option: Open maps what it gets.
func HugePages() Option { return func(o *options) { o.huge = true } }

// Init has Create call fill with the new memory, which is zero, before anybody else can get
// at it. If fill fails, so does Create, with the same error.
func Init(fill func(mem []byte) error) Option { return func(o *options) { o.init = fill } }

// Fits has Open call check with the size of the memory before it maps any. If check fails,
// so does Open, with the same error.
func Fits(check func(size int) error) Option { return func(o *options) { o.fits = check } }

func newOptions(opts []Option) options {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// A SizeError reports memory of a size that is not accepted, or that is not allocated in
// full.
type SizeError struct {
	// Size is the size of the memory in bytes, Allocated how much of it there is. Allocated
	// is Size if that is not what is wrong.
	Size, Allocated int64
	// Min and Max are what Size may be.
	Min, Max int64
	// Unit is what Size has to be a multiple of: the size of a huge page, or 1.
	Unit int64
}

func (e *SizeError) Error() string { return "tandem: shared memory: " + e.Reason("memory") }

// Reason says what is wrong with the memory, which it calls what.
func (e *SizeError) Reason(what string) string {
	switch {
	case e.Size < e.Min || e.Size > e.Max:
		return fmt.Sprintf("%s of %d bytes, want %d to %d", what, e.Size, e.Min, e.Max)
	case e.Size%e.Unit != 0:
		return fmt.Sprintf("%s of %d bytes, want a multiple of its huge pages of %d", what, e.Size, e.Unit)
	default:
		return fmt.Sprintf("%d of the %s's %d bytes are allocated, want all", e.Allocated, what, e.Size)
	}
}

// Memory is a mapping of sealed memory.
//
// Its methods may be called by any goroutine.
type Memory struct {
	frozen bool

	mu   sync.Mutex
	mem  mmap.MMap
	file *os.File
}

// Bytes returns the memory. After Close it returns nil, and memory that was returned before
// must not be touched any more: that crashes the process. So does writing to it, unless it
// comes from [Create].
func (m *Memory) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mem
}

// Frozen reports whether nobody can write the memory, its maker included: what was read
// once will be there for ever.
func (m *Memory) Frozen() bool { return m.frozen }

// File returns the memory's descriptor, to pass to other processes: by SCM_RIGHTS, or in
// exec.Cmd.ExtraFiles. It stays the memory's, and Close closes it. It is nil for memory
// from [Open], and after CloseFile.
func (m *Memory) File() *os.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file
}

// CloseFile closes the descriptor, once all have been sent it. The memory stays mapped, and
// File returns nil. Closing again does nothing.
func (m *Memory) CloseFile() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closeFile()
}

func (m *Memory) closeFile() error {
	if m.file == nil {
		return nil
	}
	err := m.file.Close()
	m.file = nil
	return err
}

// Close unmaps the memory and closes the descriptor. The kernel frees the memory when the
// last process that has it mapped or open has done so, or is dead. Nobody may use Bytes any
// more. Closing again does nothing.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	if m.mem != nil {
		errs = append(errs, m.mem.Unmap())
		m.mem = nil
	}
	errs = append(errs, m.closeFile())
	return errors.Join(errs...)
}
