package sealed

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// Create makes memory of size bytes that only this process, by this mapping, can write from
// now on. All of it is allocated and zero. The name, of up to 200 bytes, shows in /proc and
// nowhere else.
//
// Errors are a [*SizeError] for a size below 1, wrap [ErrUnsupported] on a system without
// sealed memory or [ErrNoHugePages] if [HugePages] asks for more than there are, or wrap the
// kernel's error, for instance when memory or descriptors are short.
func Create(name string, size int, opts ...Option) (*Memory, error) {
	o := newOptions(opts)
	if size < 1 {
		return nil, &SizeError{Size: int64(size), Allocated: int64(size), Min: 1, Max: math.MaxInt, Unit: 1}
	}
	f, err := memfd(name, o.huge)
	if err != nil {
		return nil, err
	}
	m := &Memory{file: f}
	if err := m.create(size, o); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Memory) create(size int, o options) error {
	if o.huge {
		unit, err := hugePageSize(int(m.file.Fd()))
		if err != nil {
			return err
		}
		if size > math.MaxInt-unit {
			return &SizeError{Size: int64(size), Allocated: int64(size), Min: 1, Max: int64(math.MaxInt - unit), Unit: 1}
		}
		size = (size + unit - 1) / unit * unit
	}
	if err := allocate(m.file, size, o.huge); err != nil {
		return err
	}
	mem, err := mmap.MapRegion(m.file, size, mmap.RDWR, 0, 0)
	if err != nil {
		return mapError(size, err)
	}
	m.mem = mem
	if o.prefault {
		if unix.Madvise(mem, unix.MADV_POPULATE_WRITE) != nil { // Linux before 5.14
			for i := 0; i < len(mem); i += os.Getpagesize() {
				mem[i] = 0 // nobody else has it yet
			}
		}
	}
	if o.init != nil {
		if err := o.init(mem); err != nil {
			return err
		}
	}
	return seal(m.file, requiredSeals)
}

// CreateFrozen makes memory with these contents that nobody can write from now on, and maps
// it. It costs the copy, and three system calls more than [Create]. Errors are as with
// Create; there is no memory without contents.
func CreateFrozen(name string, contents []byte, opts ...Option) (*Memory, error) {
	o := newOptions(opts)
	if len(contents) < 1 {
		return nil, &SizeError{Min: 1, Max: math.MaxInt, Unit: 1}
	}
	f, err := memfd(name, false)
	if err != nil {
		return nil, err
	}
	m := &Memory{file: f, frozen: true}
	if err := m.freeze(contents, o); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Memory) freeze(contents []byte, o options) error {
	// Nothing may be mapped writable when the seals come, so the contents are written. That
	// allocates as it goes, and a lack of memory is an error.
	if _, err := m.file.WriteAt(contents, 0); err != nil {
		return fmt.Errorf("tandem: cannot fill %d bytes of shared memory: %w", len(contents), err)
	}
	if err := seal(m.file, requiredSeals|unix.F_SEAL_WRITE); err != nil {
		return err
	}
	return m.mapReadOnly(m.file, len(contents), o)
}

// allocateStep is how much is allocated by one system call. A signal that comes meanwhile
// undoes the whole of that call, so it has to be short enough to succeed between the
// signals of a profiler.
const allocateStep = 4 << 20

// allocate gives the file its size and all of its memory. Allocated now, a lack of memory is
// an error. At first use it would be SIGBUS.
func allocate(f *os.File, size int, huge bool) error {
	step := allocateStep
	if huge {
		step = size // these are few, and stay when a signal comes
	} else if err := possible(size); err != nil {
		return allocateError(size, err)
	}
	fd := int(f.Fd())
	for done := 0; done < size; {
		n := min(step, size-done)
		switch err := sysFallocate(fd, 0, int64(done), int64(n)); {
		case err == nil:
			done += n
		case err == unix.EINTR:
		case huge && (err == unix.ENOSPC || err == unix.ENOMEM):
			return fmt.Errorf("%w: cannot allocate %d bytes: the system has set too few aside (vm.nr_hugepages): %w", ErrNoHugePages, size, os.NewSyscallError("fallocate", err))
		default:
			return allocateError(size, os.NewSyscallError("fallocate", err))
		}
	}
	return nil
}

func allocateError(size int, err error) error {
	return fmt.Errorf("tandem: cannot allocate %d bytes of shared memory: %w", size, err)
}

// possible returns an error for what is more than the machine has. The kernel would find
// that out when all memory is used up, and kill somebody.
func possible(size int) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	if has := (uint64(info.Totalram) + uint64(info.Totalswap)) * uint64(info.Unit); uint64(size) > has {
		return fmt.Errorf("%w: the machine has %d bytes in all", unix.ENOMEM, has)
	}
	return nil
}

func mapError(size int, err error) error {
	return fmt.Errorf("tandem: cannot map %d bytes of shared memory: %w", size, os.NewSyscallError("mmap", err))
}

// The system calls. Tests replace them.
var (
	sysMemfdCreate = unix.MemfdCreate
	sysFcntl       = unix.FcntlInt
	sysFallocate   = unix.Fallocate
)

// memfd makes an empty memory file that can be sealed.
func memfd(name string, huge bool) (*os.File, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if huge {
		flags |= unix.MFD_HUGETLB
	}
	// Where vm.memfd_noexec is 2 only non-executable memory is allowed; before
	// Linux 6.3 the flag does not exist.
	fd, err := sysMemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = sysMemfdCreate(name, flags)
	}
	switch {
	case err == nil:
	case huge && (err == unix.EINVAL || err == unix.ENOSYS || err == unix.ENODEV):
		return nil, fmt.Errorf("%w: the kernel makes no memory files of them: %w", ErrNoHugePages, os.NewSyscallError("memfd_create", err))
	case err == unix.ENOSYS, err == unix.EPERM, err == unix.EACCES, err == unix.EINVAL:
		return nil, fmt.Errorf("%w: the kernel has no memfd_create (Linux 3.17), or a sandbox forbids it: %w", ErrUnsupported, err)
	default:
		return nil, fmt.Errorf("tandem: cannot make shared memory: %w", os.NewSyscallError("memfd_create", err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// seal sets seals, for good if SEAL is among them.
func seal(f *os.File, seals int) error {
	_, err := sysFcntl(f.Fd(), unix.F_ADD_SEALS, seals)
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1)", ErrUnsupported)
	case err != nil:
		return fmt.Errorf("tandem: cannot seal shared memory: %w", os.NewSyscallError("fcntl", err))
	}
	return nil
}
