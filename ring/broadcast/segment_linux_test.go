package broadcast

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/sealed"
)

// reopened returns a new descriptor of the memory, as another process gets one.
func reopened(t *testing.T, s *Segment) *os.File {
	fd, err := unix.FcntlInt(s.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "reopened")
	t.Cleanup(func() { f.Close() })
	return f
}

// Who has the descriptor of a segment can map it to read it, and not to write.
func TestSegments(t *testing.T) {
	if err := sealed.Supported(); err != nil {
		t.Skip(err)
	}
	for _, make := range []func(...Option) (*Segment, error){
		func(opts ...Option) (*Segment, error) { return Create(MinSize, opts...) },
		CreateReader,
	} {
		for _, opts := range [][]Option{nil, {Prefault()}} {
			s, err := make(opts...)
			require.NoError(t, err)
			f := reopened(t, s)
			_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			require.ErrorIs(t, err, unix.EPERM)
			_, err = unix.Pwrite(int(f.Fd()), []byte{1}, 0)
			require.ErrorIs(t, err, unix.EPERM)
			require.ErrorIs(t, unix.Ftruncate(int(f.Fd()), 0), unix.EPERM)

			open, other := Open, OpenReader
			if len(s.Bytes()) == ReaderSize {
				open, other = OpenReader, Open
			}
			_, err = other(f, opts...)
			require.ErrorIs(t, err, ErrLayout)
			theirs, err := open(f, opts...)
			require.NoError(t, err)
			require.Nil(t, theirs.File())
			require.Equal(t, s.Bytes(), theirs.Bytes())
			s.Bytes()[len(s.Bytes())-1] = 42
			require.EqualValues(t, 42, theirs.Bytes()[len(s.Bytes())-1])
			require.NoError(t, s.CloseFile())
			require.Nil(t, s.File())
			require.NoError(t, s.Close())
			require.NoError(t, s.Close())
			require.Nil(t, s.Bytes())
			require.NoError(t, theirs.Close())
		}
	}
	for _, bad := range []int{0, MinSize + 8, MaxSize + 8} {
		_, err := Create(bad)
		require.ErrorIs(t, err, ErrLayout)
	}
	_, err := Create(MinSize, Start(Point{Position: 3}))
	require.ErrorIs(t, err, ErrLayout)
	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "unsealed")
	defer f.Close()
	require.NoError(t, f.Truncate(ReaderSize))
	_, err = OpenReader(f)
	require.ErrorIs(t, err, ErrSeals)
	_, err = Open(f)
	require.ErrorIs(t, err, ErrSeals)
}
