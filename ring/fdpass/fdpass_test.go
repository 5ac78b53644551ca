//go:build unix

package fdpass

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pair returns a connected pair of Unix sockets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, f, err := Socketpair(unix.SOCK_STREAM)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	b, err = Conn(f)
	require.NoError(t, f.Close())
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return a, b
}

// open counts the descriptors of this process.
func open() (n int) {
	for fd := range uintptr(1000) {
		if _, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

func TestFileArrives(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, Send(a, []byte("hello"), w))
	w.Close()
	from := Reader{Conn: b}
	defer from.Close()
	got := make([]byte, 5)
	_, err = io.ReadFull(&from, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	require.Len(t, from.Files, 1)
	_, err = from.Files[0].WriteString("x")
	require.NoError(t, err)
	n, err := r.Read(got)
	require.NoError(t, err)
	require.Equal(t, "x", string(got[:n]))
}

// A peer that passes descriptors with each byte does not use up ours.
func TestFloodOfDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	a, b := pair(t)
	before := open()
	from := Reader{Conn: b}
	for i := range 100 {
		_, _, err := a.WriteMsgUnix([]byte{1}, unix.UnixRights(int(null.Fd()), int(null.Fd()), int(null.Fd())), nil)
		require.NoError(t, err)
		if _, err = from.Read(make([]byte, 1)); i == 0 {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, ErrTooManyFiles)
		}
		require.LessOrEqual(t, len(from.Files), maxFiles)
		require.Eventually(t, func() bool { return open() <= before+maxFiles }, 30*time.Second, time.Millisecond)
	}
	from.Discard()
	require.Empty(t, from.Files)
	require.Eventually(t, func() bool { return open() == before }, 30*time.Second, time.Millisecond, "a descriptor has leaked")
	require.NoError(t, a.Close())
	_, err = from.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// FuzzControlMessages takes apart what would come from the kernel.
func FuzzControlMessages(f *testing.F) {
	f.Add([]byte{})
	f.Add(unix.UnixRights())
	f.Add(unix.UnixRights(1))
	f.Add(unix.UnixRights(1, 2, 3, 4))
	f.Add(append(unix.UnixRights(1, 2), unix.UnixRights(3)...))
	f.Add(unix.UnixRights(1, 2, 3)[:unix.CmsgLen(4)])
	odd := unix.UnixRights(1)
	odd[0] = byte(unix.CmsgLen(1)) // where the machine has the low byte first
	f.Add(odd)
	f.Fuzz(func(t *testing.T, oob []byte) {
		fds, err := Descriptors(oob)
		if err != nil {
			require.Empty(t, fds)
		}
		require.LessOrEqual(t, 4*len(fds), len(oob))
	})
}
