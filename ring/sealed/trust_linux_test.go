package sealed

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// nobodyElseWrites tries all ways to change memory that there are with its descriptor.
func nobodyElseWrites(t require.TestingT, f *os.File, size int) {
	fd := int(f.Fd())
	_, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EPERM, "mmap")
	if mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED); err == nil { // EPERM before Linux 6.7
		err = unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE)
		require.True(t, errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES), "mprotect: %v", err)
		require.Error(t, unix.Madvise(mem, unix.MADV_REMOVE), "punch a hole by madvise")
		require.NoError(t, unix.Munmap(mem))
	} else {
		require.True(t, errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOMEM), "%v", err) // no huge pages left
	}
	_, err = unix.Pwrite(fd, []byte{1}, 0)
	require.Error(t, err, "pwrite") // EINVAL with huge pages
	require.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM, "shrink")
	require.ErrorIs(t, unix.Ftruncate(fd, int64(size)+2<<20), unix.EPERM, "grow")
	require.ErrorIs(t, unix.Fallocate(fd, 0, 0, int64(size)+4<<20), unix.EPERM, "grow by fallocate")
	require.ErrorIs(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size)), unix.EPERM, "punch a hole")
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM, "more seals")

	// Nor by way of /proc, which gives a new open file.
	again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR|os.O_TRUNC, 0)
	if err == nil {
		again.Close()
	}
	again, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR, 0)
	if err == nil {
		_, err = unix.Mmap(int(again.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		require.ErrorIs(t, err, unix.EPERM, "mmap of the reopened file")
		again.Close()
	}
}

// kinds makes memory of either kind with the same contents.
var kinds = map[string]func(t *testing.T) *Memory{
	"written": func(t *testing.T) *Memory {
		m, err := Create("test", 8192, Init(func(mem []byte) error { copy(mem, "contents"); return nil }))
		require.NoError(t, err)
		return m
	},
	"frozen": func(t *testing.T) *Memory {
		contents := make([]byte, 8192)
		copy(contents, "contents")
		m, err := CreateFrozen("test", contents)
		require.NoError(t, err)
		return m
	},
}

// With the descriptor in hand, anybody gets at the memory by reading only: in this process
// and in another one.
func TestNobodyElseWrites(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			m := kind(t)
			defer m.Close()
			nobodyElseWrites(t, reopened(t, m), 8192)
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe, "8192")
			cmd.Env = append(os.Environ(), helperEnv+"=vandal")
			cmd.ExtraFiles = []*os.File{m.File()}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(out))
			require.Equal(t, faulted, exit.ExitCode(), string(out))

			want := make([]byte, 8192)
			copy(want, "contents")
			require.Equal(t, want, m.Bytes())
			if !m.Frozen() {
				m.Bytes()[4096] = 1 // the maker does
			}
		})
	}
}

// Frozen memory is not even its maker's.
func TestMakerDoesNotWriteFrozenMemory(t *testing.T) {
	m := kinds["frozen"](t)
	defer m.Close()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	require.Panics(t, func() { m.Bytes()[0] = 1 })
}

const faulted = 7 // the exit code of a helper that was refused a write

// failer is a require.TestingT of a process that is no test.
type failer struct{}

func (failer) Errorf(format string, args ...any) { println(format, args[0].(string)) }
func (failer) FailNow()                          { os.Exit(1) }

func init() {
	helpers["vandal"] = func(args []string) {
		size, _ := strconv.Atoi(args[0])
		f := os.NewFile(3, "memory")
		nobodyElseWrites(failer{}, f, size)
		m, err := Open(f, size, size)
		require.NoError(failer{}, err)
		require.Equal(failer{}, "contents", string(m.Bytes()[:8]))
		debug.SetPanicOnFault(true)
		defer func() {
			if recover() != nil {
				os.Exit(faulted)
			}
		}()
		m.Bytes()[0] = 0
	}
}

// Open refuses files that a peer might pass instead of sealed memory.
func TestOpenRefuses(t *testing.T) {
	const size = 8192
	anonymous := func(size int64, allocate bool, seals int) *os.File {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		require.NoError(t, unix.Ftruncate(fd, size))
		if allocate {
			require.NoError(t, unix.Fallocate(fd, 0, 0, size))
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		return os.NewFile(uintptr(fd), "test")
	}
	disk, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	require.NoError(t, disk.Truncate(size))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	require.NoError(t, err)
	rd, wr, err := os.Pipe()
	require.NoError(t, err)
	defer wr.Close()
	dir, err := os.Open(".")
	require.NoError(t, err)

	tests := []struct {
		name string
		file *os.File
		want string
	}{
		{"unsealed", anonymous(size, true, 0), "it has seals none, want SEAL|SHRINK|GROW|FUTURE_WRITE"},
		{"frozen, and nothing else", anonymous(size, true, unix.F_SEAL_WRITE), "it has seals WRITE, want SEAL|SHRINK|GROW|FUTURE_WRITE"},
		{"regular file", disk, "no memory file with seals"},
		{"device", null, "no memory file with seals"},
		{"pipe", rd, "no memory file with seals"},
		{"directory", dir, "no memory file with seals"},
		{"too small", anonymous(size-1, true, requiredSeals), "memory of 8191 bytes, want 8192 to 16384"},
		{"too large", anonymous(16385, true, requiredSeals), "memory of 16385 bytes, want 8192 to 16384"},
		{"huge", anonymous(1<<40, false, requiredSeals), "memory of 1099511627776 bytes, want"},
		{"sparse", anonymous(size, false, requiredSeals), "0 of the memory's 8192 bytes are allocated"},
		{"sparse and frozen", anonymous(size, false, requiredSeals|unix.F_SEAL_WRITE), "0 of the memory's 8192 bytes are allocated"},
	}
	for bit := 1; bit <= requiredSeals; bit <<= 1 {
		if requiredSeals&bit != 0 {
			for _, more := range []int{0, unix.F_SEAL_WRITE} {
				have := requiredSeals&^bit | more
				tests = append(tests, struct {
					name string
					file *os.File
					want string
				}{"without " + sealNames(bit), anonymous(size, true, have), "it has seals " + sealNames(have) + ", want"})
			}
		}
	}
	for _, tt := range tests {
		m, err := Open(tt.file, size, 2*size)
		require.Nil(t, m, tt.name)
		var se *SizeError
		require.NotEqual(t, errors.Is(err, ErrSeals), errors.As(err, &se), "%s: %v", tt.name, err)
		require.ErrorContains(t, err, tt.want, tt.name)
		require.ErrorContains(t, err, "tandem: ", tt.name)
		require.NoError(t, tt.file.Close())
	}
	_, err = Open(disk, 1, 1)
	require.ErrorContains(t, err, "tandem: cannot open shared memory: use of closed file")

	f := anonymous(size, true, requiredSeals)
	defer f.Close()
	refuse := errors.New("refused")
	_, err = Open(f, 1, size, Fits(func(got int) error { require.Equal(t, size, got); return refuse }))
	require.Same(t, refuse, err)
}

// Seals hold for huge pages as well, which can be seen without having any.
func TestSealsOfHugePages(t *testing.T) {
	f, err := memfd("test", true)
	if errors.Is(err, ErrNoHugePages) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer f.Close()
	unit, err := hugePageSize(int(f.Fd()))
	require.NoError(t, err)
	require.NotZero(t, unit)
	require.NoError(t, f.Truncate(int64(unit)))
	require.NoError(t, seal(f, requiredSeals))
	nobodyElseWrites(t, f, unit)
	_, err = Open(f, 1, unit)
	require.ErrorContains(t, err, "0 of the memory's")
}

// The kernel unmaps whole huge pages only, and a peer can make a file that ends inside of
// one.
func TestOpenRefusesPartsOfHugePages(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB)
	if err != nil {
		t.Skip("no huge pages: ", err)
	}
	f := os.NewFile(uintptr(fd), "test")
	defer f.Close()
	if err := unix.Fallocate(fd, 0, 0, 8192); err != nil {
		t.Skip("no huge pages: ", err)
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, requiredSeals)
	require.NoError(t, err)
	_, err = Open(f, 1, 8192)
	require.ErrorContains(t, err, "memory of 8192 bytes, want a multiple of its huge pages of ")
}
