package ring

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/fdpass"
)

// honest is what a correct peer sends first.
func honest() []byte { return appendExchange(nil) }

// segmentFile returns the descriptor of a good segment.
func segmentFile(t *testing.T) *os.File {
	s, err := Create(MinSize)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s.File()
}

// TestHostilePeers: whatever the other end does, Exchange fails with an error that says it, and leaves
// nothing. A peer that is silent is waited for as long as the context says.
func TestHostilePeers(t *testing.T) {
	pass := func(t *testing.T, conn *net.UnixConn, b []byte, files ...*os.File) {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		_, _, err := conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		require.NoError(t, err)
	}
	changed := func(at int, b byte) []byte {
		h := honest()
		h[at] = b
		return h
	}
	null := func(t *testing.T) *os.File {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	memory := func(t *testing.T, size int64, seals int) *os.File {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "test")
		t.Cleanup(func() { f.Close() })
		require.NoError(t, unix.Ftruncate(fd, size))
		require.NoError(t, unix.Fallocate(fd, 0, 0, size))
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		require.NoError(t, err)
		return f
	}
	for _, tt := range []struct {
		name string
		peer func(t *testing.T, conn *net.UnixConn)
		is   error
		want string
	}{
		{"garbage", func(t *testing.T, c *net.UnixConn) { pass(t, c, []byte("GET / HTTP/1.1\r\n\r\n"), segmentFile(t)) },
			ErrExchange, `it begins with "GET / HT", want "tndlink1"`},
		{"another version", func(t *testing.T, c *net.UnixConn) { pass(t, c, changed(8, LayoutVersion+1), segmentFile(t)) },
			ErrExchange, "layout version 2, want 1"},
		{"reserved", func(t *testing.T, c *net.UnixConn) { pass(t, c, changed(15, 1), segmentFile(t)) },
			ErrExchange, "reserved word is 0x1000000"},
		{"no descriptor", func(t *testing.T, c *net.UnixConn) { pass(t, c, honest()) },
			ErrExchange, "passed 0 descriptors, want 1"},
		{"two descriptors", func(t *testing.T, c *net.UnixConn) { pass(t, c, honest(), segmentFile(t), null(t)) },
			ErrExchange, "passed 2 descriptors, want 1"},
		{"very many descriptors", func(t *testing.T, c *net.UnixConn) {
			n, many := null(t), []*os.File{segmentFile(t)}
			for range 200 {
				many = append(many, n)
			}
			pass(t, c, honest(), many...)
		}, ErrExchange, "passed 4 descriptors, want 1"},
		{"a descriptor with each byte", func(t *testing.T, c *net.UnixConn) {
			fds := unix.UnixRights(int(segmentFile(t).Fd()))
			for _, b := range honest() {
				_, _, _ = c.WriteMsgUnix([]byte{b}, fds, nil) // until the other side hangs up
			}
		}, ErrExchange, "passed too many descriptors"},
		{"a late descriptor", func(t *testing.T, c *net.UnixConn) {
			pass(t, c, honest(), segmentFile(t))
			pass(t, c, []byte{exchangeReady}, null(t))
		}, ErrExchange, "passed 1 more descriptors"},
		{"not ready", func(t *testing.T, c *net.UnixConn) {
			pass(t, c, append(honest(), 7), segmentFile(t))
		}, ErrExchange, "says 7 when it is ready"},
		{"a device", func(t *testing.T, c *net.UnixConn) { pass(t, c, honest(), null(t)) },
			ErrSeals, "no memory file with seals"},
		{"writable memory", func(t *testing.T, c *net.UnixConn) {
			pass(t, c, honest(), memory(t, ControlSize+MinSize, requiredSeals&^unix.F_SEAL_FUTURE_WRITE))
		}, ErrSeals, "it has seals SEAL|SHRINK|GROW, want"},
		{"small memory", func(t *testing.T, c *net.UnixConn) {
			pass(t, c, honest(), memory(t, ControlSize, requiredSeals))
		}, ErrLayout, "segment of 4096 bytes"},
		{"memory without a layout", func(t *testing.T, c *net.UnixConn) {
			pass(t, c, honest(), memory(t, ControlSize+MinSize, requiredSeals))
		}, ErrLayout, "remote segment has magic 0x0"},
		{"hangs up at once", func(t *testing.T, c *net.UnixConn) {}, ErrPeerGone, ""},
		{"hangs up in its hello", func(t *testing.T, c *net.UnixConn) { pass(t, c, honest()[:9], segmentFile(t)) },
			ErrPeerGone, ""},
		{"hangs up before it is ready", func(t *testing.T, c *net.UnixConn) { pass(t, c, honest(), segmentFile(t)) },
			ErrPeerGone, ""},
	} {
		for _, order := range []string{"before", "after"} {
			t.Run(tt.name+" "+order, func(t *testing.T) {
				noLeaks(t)
				watchdog(t)
				ours, theirs := ends(t)
				if order == "before" { // all of it is on its way before Exchange begins
					tt.peer(t, theirs)
					require.NoError(t, theirs.CloseWrite())
				}
				failed := make(chan error, 1)
				go func() {
					_, err := Exchange(context.Background(), ours, 64<<10)
					failed <- err
				}()
				if order == "after" { // it answers
					from := fdpass.Reader{Conn: theirs}
					_, err := io.ReadFull(&from, make([]byte, exchangeSize))
					from.Close()
					require.NoError(t, err)
					tt.peer(t, theirs)
					require.NoError(t, theirs.Close())
				}
				err := <-failed
				require.ErrorIs(t, err, tt.is)
				require.ErrorContains(t, err, tt.want)
				require.True(t, strings.HasPrefix(err.Error(), "tandem: "), err)
				require.ErrorIs(t, ours.SetDeadline(time.Time{}), net.ErrClosed, "Exchange has taken the connection over")
			})
		}
	}
}

// TestPeerEndsAtEveryByte: the peer dies after each number of bytes, with and without its
// descriptor.
func TestPeerEndsAtEveryByte(t *testing.T) {
	noLeaks(t)
	watchdog(t)
	all := append(honest(), exchangeReady)
	for n := range all {
		for _, with := range []bool{false, true} {
			if n == 0 && with {
				continue
			}
			ours, theirs := ends(t)
			var f *os.File
			if with {
				f = segmentFile(t)
			}
			if n > 0 {
				_, err := fdpass.Pass(theirs, all[:n], f)
				require.NoError(t, err)
			}
			require.NoError(t, theirs.Close())
			_, err := Exchange(context.Background(), ours, MinSize)
			want := ErrPeerGone
			if n >= exchangeSize && !with {
				want = ErrExchange
			}
			require.ErrorIs(t, err, want, "%d bytes, with a descriptor: %v", n, with)
		}
	}
}

// A silent peer is waited for until the context ends, whatever it has said before.
func TestSilentPeer(t *testing.T) {
	noLeaks(t)
	watchdog(t)
	for n := range exchangeSize + 1 {
		ours, theirs := ends(t)
		ctx, cancel := context.WithCancel(context.Background())
		failed := make(chan error, 1)
		go func() {
			_, err := Exchange(ctx, ours, MinSize)
			failed <- err
		}()
		if n > 0 {
			_, err := fdpass.Pass(theirs, honest()[:n], segmentFile(t))
			require.NoError(t, err)
		}
		from := fdpass.Reader{Conn: theirs}
		heard := exchangeSize
		if n == exchangeSize {
			heard++ // it has mapped ours, and waits for us to be ready
		}
		_, err := io.ReadFull(&from, make([]byte, heard))
		from.Close()
		require.NoError(t, err)
		select {
		case err := <-failed:
			t.Fatalf("it has not waited: %v", err)
		default:
		}
		cancel()
		err = <-failed
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, ErrPeerGone)
		theirs.Close()
	}
	ours, _ := ends(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Exchange(ctx, ours, MinSize)
	require.ErrorIs(t, err, context.Canceled)
}

// A peer must send nothing after the exchange. Descriptors that it passes do not arrive.
func TestPeerSendsMore(t *testing.T) {
	noLeaks(t)
	ctx := watchdog(t)
	a, b := linked(t, MinSize, MinSize)
	require.NoError(t, a.Producer.Write(3, []byte("record")))
	_, err := fdpass.Pass(a.conn, []byte("more"), segmentFile(t))
	require.NoError(t, err)
	<-b.Done()
	require.ErrorIs(t, b.Err(), ErrExchange)
	r, ok, err := b.Consumer.Next()
	require.True(t, ok)
	require.NoError(t, err)
	require.Equal(t, "record", string(r.Data))
	require.ErrorIs(t, b.Consumer.Wait(ctx), ErrExchange)
}

// FuzzExchange is a peer that sends any bytes, with any number of descriptors of segments, and hangs
// up. There is a link only if they are those of an exchange.
func FuzzExchange(f *testing.F) {
	f.Add(append(honest(), exchangeReady), uint8(1))
	f.Add(append(honest(), exchangeReady), uint8(0))
	f.Add(append(honest(), exchangeReady, 0), uint8(1))
	f.Add(append(honest(), 2), uint8(1))
	f.Add(honest(), uint8(3))
	f.Add(honest()[:5], uint8(1))
	f.Add([]byte{}, uint8(0))
	good := append(honest(), exchangeReady)
	f.Fuzz(func(t *testing.T, b []byte, files uint8) {
		if len(b) == 0 || len(b) > 1000 {
			return
		}
		ours, theirs := ends(t)
		var fds []int
		for range files % 8 {
			fds = append(fds, int(segmentFile(t).Fd()))
		}
		_, _, err := theirs.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		require.NoError(t, err)
		require.NoError(t, theirs.CloseWrite())
		l, err := Exchange(context.Background(), ours, MinSize)
		if string(b[:min(len(b), len(good))]) == string(good) && len(fds) == 1 {
			require.NoError(t, err)
			<-l.Done()
			if len(b) > len(good) {
				require.ErrorIs(t, l.Err(), ErrExchange)
			} else {
				require.ErrorIs(t, l.Err(), ErrPeerGone)
			}
			require.NoError(t, l.Close())
			return
		}
		require.Nil(t, l)
		if err == nil || !errors.Is(err, ErrExchange) && !errors.Is(err, ErrPeerGone) {
			t.Fatalf("%q with %d descriptors: %v", b, len(fds), err)
		}
	})
}
