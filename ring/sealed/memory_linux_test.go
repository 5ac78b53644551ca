package sealed

import (
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// reopened returns a new descriptor of the memory, as a peer gets one.
func reopened(t *testing.T, m *Memory) *os.File {
	fd, err := unix.FcntlInt(m.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "peer's")
	t.Cleanup(func() { f.Close() })
	return f
}

var eachSize = []int{1, 4095, 4096, 4097, 1 << 20, allocateStep - 1, allocateStep, 2*allocateStep + 1}

func TestCreate(t *testing.T) {
	for _, size := range eachSize {
		for _, opts := range [][]Option{nil, {Prefault()}} {
			m, err := Create("test", size, opts...)
			require.NoError(t, err)
			require.Len(t, m.Bytes(), size)
			require.False(t, m.Frozen())
			require.Equal(t, make([]byte, size), m.Bytes())
			f := reopened(t, m)
			r, err := Open(f, size, size, opts...)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.Nil(t, r.File())
			require.False(t, r.Frozen())
			require.Len(t, r.Bytes(), size)
			m.Bytes()[size-1] = 42
			require.EqualValues(t, 42, r.Bytes()[size-1])

			require.NoError(t, m.CloseFile())
			require.NoError(t, m.CloseFile())
			require.Nil(t, m.File())
			m.Bytes()[0] = 43
			require.EqualValues(t, 43, r.Bytes()[0])

			// The peer's mapping stays whole when the maker goes.
			require.NoError(t, m.Close())
			require.NoError(t, m.Close())
			require.Nil(t, m.Bytes())
			require.EqualValues(t, 43, r.Bytes()[0])
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
			require.Nil(t, r.Bytes())
		}
	}
}

func TestCreateFrozen(t *testing.T) {
	for _, size := range eachSize {
		for _, opts := range [][]Option{nil, {Prefault()}} {
			contents := []byte(strings.Repeat("frozen!", size/7+1)[:size])
			m, err := CreateFrozen("test", contents, opts...)
			require.NoError(t, err)
			require.True(t, m.Frozen())
			f := reopened(t, m)
			r, err := Open(f, 1, math.MaxInt, opts...)
			require.NoError(t, err)
			require.True(t, r.Frozen())
			want := string(contents)
			clear(contents) // it is a copy
			require.Equal(t, want, string(m.Bytes()))
			require.Equal(t, want, string(r.Bytes()))
			require.NoError(t, m.Close())
			require.Equal(t, want, string(r.Bytes()))
			require.NoError(t, r.Close())
		}
	}
}

// Kernels before Linux 6.7 map nothing with the seal WRITE as shared memory.
func TestFrozenMemoryMapsPrivately(t *testing.T) {
	m, err := CreateFrozen("test", []byte("contents"))
	require.NoError(t, err)
	defer m.Close()
	mem, err := unix.Mmap(int(m.File().Fd()), 0, 8, unix.PROT_READ, unix.MAP_PRIVATE)
	require.NoError(t, err)
	require.Equal(t, "contents", string(mem))
	require.NoError(t, unix.Munmap(mem))
}

func TestInit(t *testing.T) {
	m, err := Create("test", 5000, Init(func(mem []byte) error {
		require.Equal(t, make([]byte, 5000), mem)
		copy(mem, "hello")
		return nil
	}))
	require.NoError(t, err)
	require.Equal(t, "hello", string(m.Bytes()[:5]))
	require.NoError(t, m.Close())
	_, err = Create("test", 5000, Init(func(mem []byte) error { return io.ErrUnexpectedEOF }))
	require.Same(t, io.ErrUnexpectedEOF, err)
}

func TestBadSizes(t *testing.T) {
	for _, size := range []int{0, -1, math.MinInt} {
		_, err := Create("test", size)
		var se *SizeError
		require.ErrorAs(t, err, &se)
		require.EqualValues(t, size, se.Size)
	}
	_, err := CreateFrozen("test", nil)
	require.ErrorContains(t, err, "tandem: shared memory: memory of 0 bytes, want 1 to ")
	if math.MaxInt == math.MaxInt64 { // or else the machine may have that much
		_, err = Create("test", math.MaxInt)
		require.ErrorIs(t, err, unix.ENOMEM)
		require.ErrorContains(t, err, "the machine has ")
		_, err = Create("test", math.MaxInt, HugePages())
		require.Error(t, err)
	}
}

// Memory is given in pieces that fit between two signals.
func TestAllocationSurvivesSignals(t *testing.T) {
	old := sysFallocate
	t.Cleanup(func() { sysFallocate = old })
	calls, largest := 0, int64(0)
	sysFallocate = func(fd int, mode uint32, off, length int64) error {
		largest = max(largest, length)
		if calls++; calls%2 == 1 {
			return unix.EINTR
		}
		return old(fd, mode, off, length)
	}
	const size = 5*allocateStep + 4096
	m, err := Create("test", size)
	require.NoError(t, err)
	require.Equal(t, 12, calls)
	require.EqualValues(t, allocateStep, largest)
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(m.File().Fd()), &st))
	require.EqualValues(t, size, st.Size)
	require.EqualValues(t, size, st.Blocks*512)
	require.NoError(t, m.Close())

	for _, errno := range []unix.Errno{unix.ENOSPC, unix.ENOMEM, unix.EFBIG} {
		calls = 0
		sysFallocate = func(fd int, mode uint32, off, length int64) error {
			if calls++; calls == 3 {
				return errno
			}
			return old(fd, mode, off, length)
		}
		_, err := Create("test", size)
		require.ErrorIs(t, err, errno)
		require.ErrorContains(t, err, "tandem: cannot allocate 20975616 bytes of shared memory")
	}
}

func TestHugePages(t *testing.T) {
	m, err := Create("test", 3<<20, HugePages())
	if errors.Is(err, ErrNoHugePages) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer m.Close()
	require.Zero(t, len(m.Bytes())%(2<<20))
	require.GreaterOrEqual(t, len(m.Bytes()), 4<<20)
	m.Bytes()[len(m.Bytes())-1] = 42
	nobodyElseWrites(t, m.File(), len(m.Bytes()))
	r, err := Open(reopened(t, m), 1, 1<<30, Prefault())
	require.NoError(t, err)
	require.EqualValues(t, 42, r.Bytes()[len(r.Bytes())-1])
	require.NoError(t, r.Close())
	require.NoError(t, m.Close())
}

// A system without huge pages says so, whichever way it says it.
func TestNoHugePages(t *testing.T) {
	oldMemfd, oldFallocate := sysMemfdCreate, sysFallocate
	t.Cleanup(func() { sysMemfdCreate, sysFallocate = oldMemfd, oldFallocate })
	for _, errno := range []unix.Errno{unix.EINVAL, unix.ENOSYS, unix.ENODEV} {
		sysMemfdCreate = func(name string, flags int) (int, error) {
			require.NotZero(t, flags&unix.MFD_HUGETLB)
			return -1, errno
		}
		_, err := Create("test", 1, HugePages())
		require.ErrorIs(t, err, ErrNoHugePages)
		require.ErrorIs(t, err, errno)
		require.NotErrorIs(t, err, ErrUnsupported)
	}
	sysMemfdCreate = func(name string, flags int) (int, error) { return -1, unix.EMFILE }
	_, err := Create("test", 1, HugePages())
	require.NotErrorIs(t, err, ErrNoHugePages)
	require.ErrorIs(t, err, unix.EMFILE)

	sysMemfdCreate = oldMemfd
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.ENOMEM} {
		sysFallocate = func(int, uint32, int64, int64) error { return errno }
		_, err = Create("test", 1, HugePages())
		require.ErrorIs(t, err, ErrNoHugePages)
	}
}
