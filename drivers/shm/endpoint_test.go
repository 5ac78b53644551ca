//go:build linux

package shm

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// pair returns a connected pair of Unix sockets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		c, err := net.FileConn(f)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

func localHello() drivers.Hello {
	return process.Hello(drivers.Hello{Codec: "cbor", MaxMessage: drivers.DefaultMaxMessage, Window: drivers.DefaultWindow}, Name, ring.LayoutVersion)
}

// A peer that does not pass what it has to pass is refused before anything of
// its is mapped, and its descriptors are closed.
func TestHandshakeWithHostilePeer(t *testing.T) {
	segment := func(t *testing.T) *os.File {
		s, err := ring.Create(64 << 10)
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s.File()
	}
	memfd := func(t *testing.T, size int64, seals int) *os.File {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "hostile")
		t.Cleanup(func() { f.Close() })
		require.NoError(t, unix.Fallocate(fd, 0, 0, size))
		if seals != 0 {
			_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
			require.NoError(t, err)
		}
		return f
	}
	const allSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL
	for _, c := range []struct {
		name  string
		hello func(drivers.Hello) drivers.Hello
		files func(t *testing.T) []*os.File
		want  []string
	}{
		{"no descriptor", nil, func(*testing.T) []*os.File { return nil }, []string{"0 descriptors"}},
		{"two descriptors", nil, func(t *testing.T) []*os.File { return []*os.File{segment(t), segment(t)} }, []string{"2 descriptors"}},
		{"unsealed memory", nil, func(t *testing.T) []*os.File { return []*os.File{memfd(t, ring.ControlSize+64<<10, 0)} }, []string{"seal"}},
		{"memory that its maker can resize", nil, func(t *testing.T) []*os.File {
			return []*os.File{memfd(t, ring.ControlSize+64<<10, unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)}
		}, []string{"seal"}},
		{"sealed memory that is no segment", nil, func(t *testing.T) []*os.File { return []*os.File{memfd(t, ring.ControlSize+64<<10, allSeals)} }, []string{"magic"}},
		{"sealed memory of a wrong size", nil, func(t *testing.T) []*os.File { return []*os.File{memfd(t, 12345, allSeals)} }, []string{"ring of 8249 bytes"}},
		{"a file", nil, func(t *testing.T) []*os.File {
			f, err := os.CreateTemp(t.TempDir(), "")
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
			require.NoError(t, f.Truncate(ring.ControlSize+64<<10))
			return []*os.File{f}
		}, []string{"seal"}},
		{"layout version", func(h drivers.Hello) drivers.Hello { h.Layout = 99; return h }, func(t *testing.T) []*os.File { return []*os.File{segment(t)} },
			[]string{"layout version mismatch", "has 1", "has 99"}},
		{"driver", func(h drivers.Hello) drivers.Hello { h.Driver = "other"; return h }, func(t *testing.T) []*os.File { return []*os.File{segment(t)} },
			[]string{"driver mismatch", "shm", "other"}},
		{"protocol version", func(h drivers.Hello) drivers.Hello { h.Protocol = 7; return h }, func(t *testing.T) []*os.File { return []*os.File{segment(t)} },
			[]string{"protocol version mismatch", fmt.Sprintf("has %d", drivers.ProtocolVersion), "has 7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := pair(t)
			hello := localHello()
			if c.hello != nil {
				hello = c.hello(hello)
			}
			b, err := drivers.AppendHello(nil, hello)
			require.NoError(t, err)
			var fds []int
			for _, f := range c.files(t) {
				fds = append(fds, int(f.Fd()))
			}
			_, _, err = theirs.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
			require.NoError(t, err)

			d, err := Driver{}.complete()
			require.NoError(t, err)
			_, err = d.link(ours, localHello())
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// A peer that passes descriptors with every byte of its hello does not use up ours.
func TestDescriptorsWithEveryByte(t *testing.T) {
	ours, theirs := pair(t)
	segment, err := ring.Create(64 << 10)
	require.NoError(t, err)
	defer segment.Close()
	fd := int(segment.File().Fd())
	hello, err := drivers.AppendHello(nil, localHello())
	require.NoError(t, err)
	for i := range hello {
		_, _, err := theirs.WriteMsgUnix(hello[i:i+1], unix.UnixRights(fd, fd, fd, fd), nil)
		require.NoError(t, err)
	}
	d, err := Driver{}.complete()
	require.NoError(t, err)
	_, err = d.link(ours, localHello())
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.ErrorContains(t, err, "passed 4 descriptors with its hello, not 1")
}

// A side has a link only when the other one has said that it has mapped all, too. If that
// one says that it cannot, its reason is the error.
func TestConfirmation(t *testing.T) {
	short := &ipc.ExhaustedError{Resource: "memory", Limit: "RLIMIT_AS is 9", Err: unix.ENOMEM}
	for _, c := range []struct {
		name string
		say  []byte
		is   error
		want string
	}{
		{"ready", drivers.AppendReady(nil), nil, ""},
		{"short of memory", drivers.AppendReason(nil, short), ipc.ErrExhausted, "RLIMIT_AS is 9"},
		{"another reason", drivers.AppendRefusal(nil, "no"), nil, "refused by the other side: no"},
		{"nothing", nil, ipc.ErrPeerGone, "confirmation"},
		{"something else", []byte("GET / HTTP/1.1\r\n\r\n"), ipc.ErrProtocol, "does not speak tandem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := pair(t)
			segment, err := ring.Create(64 << 10)
			require.NoError(t, err)
			defer segment.Close()
			hello, err := drivers.AppendHello(nil, localHello())
			require.NoError(t, err)
			require.NoError(t, fdpass.Send(theirs, hello, segment.File()))
			linked := make(chan error)
			var l *link
			go func() {
				d, err := Driver{RingSize: 64 << 10}.complete()
				if err == nil {
					l, err = d.link(ours, localHello())
				}
				linked <- err
			}()
			r := fdpass.Reader{Conn: theirs}
			defer r.Close()
			_, err = drivers.ReadHello(&r)
			require.NoError(t, err)
			require.Len(t, r.Files, 1)
			require.NoError(t, drivers.ReadReady(theirs), "it has mapped our memory")
			select {
			case err := <-linked:
				t.Fatal("there is a link already:", err)
			default:
			}
			_, err = theirs.Write(c.say)
			require.NoError(t, err)
			require.NoError(t, theirs.CloseWrite())
			err = <-linked
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, l.Close())
				return
			}
			require.ErrorContains(t, err, c.want)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
		})
	}
}

// A side that has heard a hello and cannot map what came with it tells why.
func TestRefusalAfterTheHello(t *testing.T) {
	ours, theirs := pair(t)
	hello, err := drivers.AppendHello(nil, localHello())
	require.NoError(t, err)
	_, err = theirs.Write(hello) // without memory
	require.NoError(t, err)
	d, err := Driver{}.complete()
	require.NoError(t, err)
	_, err = d.link(ours, localHello())
	require.ErrorIs(t, err, ipc.ErrProtocol)
	r := fdpass.Reader{Conn: theirs}
	defer r.Close()
	_, err = drivers.ReadHello(&r)
	require.NoError(t, err)
	var refused *ipc.RefusedError
	require.ErrorAs(t, drivers.ReadReady(theirs), &refused)
	require.Contains(t, refused.Reason, "passed 0 descriptors")
	require.Zero(t, refused.Code)
}

// look returns what Next puts into a frame.
func look(l drivers.Link) (f drivers.Frame, ok bool, err error) {
	ok, err = l.Next(&f)
	return f, ok, err
}

// linked returns both ends of a link, of which nobody reads the control sockets.
func linked(t *testing.T) (a, b *link) {
	t.Helper()
	d, err := Driver{RingSize: 64 << 10}.complete()
	require.NoError(t, err)
	ca, cb := pair(t)
	other := make(chan *link, 1)
	go func() {
		l, err := d.link(cb, localHello())
		if err != nil {
			t.Error(err)
		}
		other <- l
	}()
	a, err = d.link(ca, localHello())
	require.NoError(t, err)
	b = <-other
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// What comes over the control socket after the hellos is no end, but an offence.
func TestDataOnControlSocket(t *testing.T) {
	l, other := linked(t)
	l.watch()
	require.NoError(t, other.Send(t.Context(), &drivers.Frame{Kind: drivers.KindGoodbye}))
	_, err := other.control.Write(make([]byte, controlRecord))
	require.NoError(t, err)
	<-l.gone
	f, ok, err := look(l)
	require.NoError(t, err, "what was sent before is delivered")
	require.True(t, ok)
	require.Equal(t, drivers.KindGoodbye, f.Kind)
	_, _, err = look(l)
	require.ErrorIs(t, err, ipc.ErrProtocol)
}

func TestOptions(t *testing.T) {
	for size, want := range map[int]int{0: DefaultRingSize, 4096: 4096, 5000: 8192, 1 << 20: 1 << 20, 1<<20 + 1: 2 << 20} {
		d, err := Driver{RingSize: size}.complete()
		require.NoError(t, err)
		require.Equal(t, want, d.RingSize)
	}
	for _, size := range []int{-1, 1, 4095, ring.MaxSize + 1} {
		_, err := Driver{RingSize: size}.complete()
		require.ErrorContains(t, err, "allowed are 4096 to 1073741824")
	}
	_, err := Driver{Wait: 9}.complete()
	require.ErrorContains(t, err, "Driver.Wait is 9")
}

// Both sides use the size and the strategy that the host chose.
func TestOptionsReachTheWorker(t *testing.T) {
	var s drivers.StartupData
	var err error
	s.DriverData, err = ipc.CBOR.Append(nil, workerOptions{RingSize: 8192, Wait: Park, Prefault: true})
	require.NoError(t, err)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[1])
	s.Control = fds[0]
	e, err := Driver{}.Open(&s, nil)
	require.NoError(t, err)
	require.Equal(t, Driver{RingSize: 8192, Wait: Park, Prefault: true}, e.(*endpoint).driver)
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	_, err = Driver{}.Open(&s, nil)
	require.ErrorContains(t, err, "in use already")
}
