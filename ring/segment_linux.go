package ring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// requiredSeals make it safe to map a stranger's memory, and to let a stranger
// map ours:
//
//	SHRINK, GROW  the size that was checked stays, so that no access is SIGBUS
//	FUTURE_WRITE  nobody gets a new writable mapping, writes, or punches holes;
//	              the owner's mapping, made before, stays writable
//	SEAL          the set of seals is final
const requiredSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL

// Supported returns nil if this system can make sealed segments, or else an error
// that says what is missing. If the answer is final, as nil and an error that wraps
// [ErrUnsupported] are, Supported remembers it. Any other error, such as that of a
// process that has no descriptor left, says nothing about the system, and the next call
// tries again.
func Supported() error {
	support.Lock()
	defer support.Unlock()
	if support.known {
		return support.err
	}
	err := trySegment()
	support.known, support.err = err == nil || errors.Is(err, ErrUnsupported), err
	return err
}

// support is what Supported remembers.
var support struct {
	sync.Mutex
	known bool
	err   error
}

// trySegment makes empty memory and seals it.
func trySegment() error {
	f, err := memfd()
	if err != nil {
		return err
	}
	defer f.Close()
	return seal(f)
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
	f, err := memfd()
	if err != nil {
		return nil, err
	}
	s := &Segment{file: f, size: ringSize}
	if err := s.create(size, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Segment) create(size int, o options) error {
	fd := int(s.file.Fd())
	// Allocated now, a lack of memory is an error. At first use it would be
	// SIGBUS.
	for {
		err := unix.Fallocate(fd, 0, 0, int64(size))
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return fmt.Errorf("tandem: ring: cannot allocate %d bytes of shared memory: %w", size, os.NewSyscallError("fallocate", err))
		}
	}
	mem, err := mmap.MapRegion(s.file, size, mmap.RDWR, 0, 0)
	if err != nil {
		return fmt.Errorf("tandem: ring: cannot map %d bytes: %w", size, os.NewSyscallError("mmap", err))
	}
	s.mem = mem
	if o.prefault {
		if unix.Madvise(mem, unix.MADV_POPULATE_WRITE) != nil { // Linux before 5.14
			for i := 0; i < len(mem); i += os.Getpagesize() {
				mem[i] = 0 // nobody else has it yet
			}
		}
	}
	if err := Format(mem, o.start); err != nil {
		return err
	}
	return seal(s.file)
}

// Open maps the peer's segment, read-only. Before it does, it verifies that f is
// memory that is sealed as [Create] seals it, of a length that fits a ring, and
// allocated in full; errors wrap [ErrSeals] or [ErrLayout]. What the header says
// is verified by [Join]. Open does not take f over: the caller closes it, and may
// do so at once.
func Open(f *os.File, opts ...Option) (*Segment, error) {
	o := newOptions(opts)
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tandem: ring: open: %w", err)
	}
	var seg *Segment
	var openErr error
	// Control keeps the descriptor open and does not change its mode.
	err = raw.Control(func(fd uintptr) { seg, openErr = open(f, int(fd), o) })
	if err != nil {
		return nil, fmt.Errorf("tandem: ring: open: %w", err)
	}
	return seg, openErr
}

func open(f *os.File, fd int, o options) (*Segment, error) {
	// Seals come first: without them, size and blocks can change after they
	// are checked.
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no memory file with seals: %w", ErrSeals, os.NewSyscallError("fcntl", err))
	}
	if seals&requiredSeals != requiredSeals {
		return nil, fmt.Errorf("%w: it has seals %s, want %s", ErrSeals, sealNames(seals), sealNames(requiredSeals))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("tandem: ring: open: %w", os.NewSyscallError("fstat", err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: it has file mode %#o, want a regular file", ErrSeals, st.Mode)
	}
	if st.Size < ControlSize+MinSize || st.Size > ControlSize+MaxSize {
		return nil, fmt.Errorf("%w: segment of %d bytes, want %d to %d", ErrLayout, st.Size, ControlSize+MinSize, ControlSize+MaxSize)
	}
	size := int(st.Size)
	if _, err := SegmentSize(size - ControlSize); err != nil {
		return nil, err
	}
	if have := int64(st.Blocks) * 512; have < st.Size {
		return nil, fmt.Errorf("%w: %d of the segment's %d bytes are allocated, want all", ErrLayout, have, st.Size)
	}
	mem, err := mmap.MapRegion(f, size, mmap.RDONLY, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("tandem: ring: cannot map %d bytes: %w", size, os.NewSyscallError("mmap", err))
	}
	if o.prefault {
		if unix.Madvise(mem, unix.MADV_POPULATE_READ) != nil { // Linux before 5.14
			touch(mem)
		}
	}
	return &Segment{mem: mem, size: size - ControlSize}, nil
}

// touch reads a byte of every page, and returns their sum so that the compiler
// cannot leave the loads out.
//
//go:noinline
func touch(mem []byte) (sum byte) {
	for i := 0; i < len(mem); i += os.Getpagesize() {
		sum += mem[i]
	}
	return sum
}

// sysMemfdCreate is the system call. Tests replace it.
var sysMemfdCreate = unix.MemfdCreate

// memfd makes an empty memory file that can be sealed.
func memfd() (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// Where vm.memfd_noexec is 2 only non-executable memory is allowed; before
	// Linux 6.3 the flag does not exist.
	fd, err := sysMemfdCreate("tandem-ring", flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = sysMemfdCreate("tandem-ring", flags)
	}
	switch err {
	case nil:
	case unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL:
		return nil, fmt.Errorf("%w: the kernel has no memfd_create (Linux 3.17), or a sandbox forbids it: %w", ErrUnsupported, err)
	default:
		return nil, fmt.Errorf("tandem: ring: cannot make shared memory: %w", os.NewSyscallError("memfd_create", err))
	}
	return os.NewFile(uintptr(fd), "tandem-ring"), nil
}

// sysFcntl is the system call. Tests replace it.
var sysFcntl = unix.FcntlInt

// seal makes the memory writable by existing mappings only, for good.
func seal(f *os.File) error {
	_, err := sysFcntl(f.Fd(), unix.F_ADD_SEALS, requiredSeals)
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1)", ErrUnsupported)
	case err != nil:
		return fmt.Errorf("tandem: ring: cannot seal shared memory: %w", os.NewSyscallError("fcntl", err))
	}
	return nil
}

// sealNames spells a set of seals out.
func sealNames(seals int) string {
	var names []string
	for _, s := range []struct {
		bit  int
		name string
	}{
		{unix.F_SEAL_SEAL, "SEAL"},
		{unix.F_SEAL_SHRINK, "SHRINK"},
		{unix.F_SEAL_GROW, "GROW"},
		{unix.F_SEAL_WRITE, "WRITE"},
		{unix.F_SEAL_FUTURE_WRITE, "FUTURE_WRITE"},
		{unix.F_SEAL_EXEC, "EXEC"},
	} {
		if seals&s.bit != 0 {
			names = append(names, s.name)
			seals &^= s.bit
		}
	}
	if seals != 0 {
		names = append(names, fmt.Sprintf("%#x", seals))
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "|")
}
