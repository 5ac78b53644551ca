package sealed

import (
	"fmt"
	"os"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// Open maps memory of some other process, read-only. Before it does, it verifies that f is
// memory that is sealed as [Create] or [CreateFrozen] seal it, of min to max bytes, and
// allocated in full. Errors wrap [ErrSeals], are a [*SizeError], or wrap the kernel's error.
// Open does not take f over: the caller closes it, and may do so at once.
func Open(f *os.File, min, max int, opts ...Option) (*Memory, error) {
	o := newOptions(opts)
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tandem: cannot open shared memory: %w", err)
	}
	var m *Memory
	var openErr error
	// Control keeps the descriptor open and does not change its mode.
	err = raw.Control(func(fd uintptr) { m, openErr = open(f, int(fd), int64(min), int64(max), o) })
	if err != nil {
		return nil, fmt.Errorf("tandem: cannot open shared memory: %w", err)
	}
	return m, openErr
}

func open(f *os.File, fd int, min, max int64, o options) (*Memory, error) {
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
		return nil, fmt.Errorf("tandem: cannot open shared memory: %w", os.NewSyscallError("fstat", err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: it has file mode %#o, want a regular file", ErrSeals, st.Mode)
	}
	size := &SizeError{Size: st.Size, Allocated: int64(st.Blocks) * 512, Min: min, Max: max, Unit: 1}
	unit, err := hugePageSize(fd)
	if err != nil {
		return nil, err
	}
	if unit > 0 {
		size.Unit = int64(unit) // the kernel unmaps no part of a page
	}
	if size.Size < min || size.Size > max || size.Size%size.Unit != 0 || size.Allocated < size.Size {
		return nil, size
	}
	if o.fits != nil {
		if err := o.fits(int(st.Size)); err != nil {
			return nil, err
		}
	}
	m := &Memory{frozen: seals&unix.F_SEAL_WRITE != 0}
	if err := m.mapReadOnly(f, int(st.Size), o); err != nil {
		return nil, err
	}
	return m, nil
}

// mapReadOnly maps memory that is sealed.
func (m *Memory) mapReadOnly(f *os.File, size int, o options) error {
	mem, err := mmap.MapRegion(f, size, mmap.RDONLY, 0, 0)
	if err == unix.EPERM && m.frozen {
		// Before Linux 6.7 nothing that has WRITE is mapped with MAP_SHARED. Since
		// nobody writes it, a private mapping shows the same, and copies nothing either.
		mem, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	}
	if err != nil {
		return mapError(size, err)
	}
	m.mem = mem
	if o.prefault {
		if unix.Madvise(mem, unix.MADV_POPULATE_READ) != nil { // Linux before 5.14
			touch(mem)
		}
	}
	return nil
}

// hugePageSize returns the size of the file's huge pages, or 0 if it has none.
func hugePageSize(fd int) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, fmt.Errorf("tandem: cannot look at shared memory: %w", os.NewSyscallError("fstatfs", err))
	}
	if uint32(fs.Type) != unix.HUGETLBFS_MAGIC {
		return 0, nil
	}
	return int(fs.Bsize), nil
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
