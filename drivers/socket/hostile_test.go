//go:build linux

package socket_test

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

func dialRaw(t testing.TB, path string) *net.UnixConn {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func goodHello(t testing.TB) []byte {
	b, err := drivers.AppendHello(nil, process.Hello(drivers.Hello{Codec: "cbor", MaxMessage: 2 << 20, Window: drivers.DefaultWindow}, "socket", 1))
	require.NoError(t, err)
	return b
}

func sendHello(t testing.TB, c net.Conn) {
	_, err := c.Write(goodHello(t))
	require.NoError(t, err)
}

// prefix is that of a frame, as the package's comment has it.
func prefix(size uint32, tag byte, zeros ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, size)
	return append(append(b, tag), append(zeros, 0, 0, 0)[:3]...)
}

// hostile is what a peer must not send, and what the error says of it.
var hostile = []struct {
	name, want string
	bytes      []byte
}{
	{"too large", "a frame of 4294967295 bytes", prefix(1<<32-1, 1)},
	{"one too large", "a frame of 2097153 bytes", prefix(2<<20+1, 1)},
	{"too many files", "byte 5 must be at most 16", append(prefix(8, 1, ipc.MaxFiles+1), make([]byte, 8)...)},
	{"files that have not come", "a frame of 16 files comes with 0", append(prefix(8, 1, ipc.MaxFiles), make([]byte, 8)...)},
	{"reserved byte", "bytes 6 and 7 must be zero", append(prefix(8, 1, 0, 1), make([]byte, 8)...)},
	{"reserved end", "bytes 6 and 7 must be zero", append(prefix(8, 1, 0, 0, 0x80), make([]byte, 8)...)},
	{"tag", "reserved bits of the tag", append(prefix(8, 0xc1), make([]byte, 8)...)},
	{"no tx", "no room for tx", prefix(0, 1)},
	{"short tx", "no room for tx", append(prefix(7, 1), make([]byte, 7)...)},
	{"extensions", "extensions of 65535 bytes", append(prefix(10, 0x21), 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff)},
	{"large tag", "reserved bits of the tag", append(append(prefix(200<<10, 0xff), make([]byte, 200<<10)...), 1)},
	{"end byte", "ends with byte 0x02", append(append(prefix(3000, 1), make([]byte, 3000)...), 2)},
	{"cut prefix", "in the middle of a frame, 5 bytes", []byte{1, 2, 3, 4, 5}},
	{"cut frame", "in the middle of a frame, 12 bytes", append(prefix(100, 1), make([]byte, 4)...)},
	{"cut large frame", "after 1000 of 2000000 bytes of a frame", append(prefix(2000000, 1), make([]byte, 1000)...)},
}

func TestHostileHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	require.NoError(t, err)
	defer stderr.Close()
	h := spawn(t, socket.Driver{Path: path}, "echo", "")
	require.NoError(t, h.Disconnect())
	for _, c := range hostile {
		// The worker may still be at the end of the link before.
		var conn *net.UnixConn
		eventually(t, "the worker takes a host", func() bool {
			conn = dialRaw(t, path)
			sendHello(t, conn)
			_, err := drivers.ReadHello(conn)
			if err != nil {
				conn.Close()
				require.ErrorContains(t, err, "worker has a host", c.name)
			}
			return err == nil
		})
		_, _ = conn.Write(c.bytes) // the worker may have hung up at the first of them
		require.NoError(t, conn.CloseWrite())
		eventually(t, c.name, func() bool { return strings.Contains(h.Process().Stderr(), c.want) })
		require.NoError(t, conn.Close())
	}
	for _, bytes := range [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		goodHello(t)[:20],
		append(goodHello(t)[:12], 0xff, 0xff, 0, 0), // a hello of 65535 bytes
		append(goodHello(t)[:16], make([]byte, 4096)...),
	} {
		conn := dialRaw(t, path)
		_, err := conn.Write(bytes)
		require.NoError(t, err)
		require.NoError(t, conn.CloseWrite())
		_, err = conn.Read(make([]byte, 1))
		require.Error(t, err, "the worker hangs up")
		require.NoError(t, conn.Close())
	}
	dialRaw(t, path) // stays silent
	h2 := dialRaw(t, path)
	_, err = h2.Write(goodHello(t)[:20]) // stops halfway
	require.NoError(t, err)
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
	require.Nil(t, h.Process().Exit())
}

func TestTooManySilentConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	h := spawn(t, socket.Driver{Path: path}, "echo", "")
	require.NoError(t, h.Disconnect())
	var silent []net.Conn
	for range 200 {
		conn := dialRaw(t, path)
		silent = append(silent, conn)
	}
	last := silent[len(silent)-1]
	_, err := drivers.ReadHello(last)
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	for _, c := range silent {
		require.NoError(t, c.Close())
	}
	require.NoError(t, h.Reconnect(h.ctx))
	h.works()
}

func TestSilentConnectionIsHungUpOn(t *testing.T) {
	socket.SetHelloTimeout(t, 1) // ns; endpoint and hosts are in this process
	e, _ := localEndpoint(t)
	conn := dialRaw(t, e.path)
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestHostileWorker(t *testing.T) {
	for _, c := range hostile {
		arg := hex.EncodeToString(c.bytes)
		if len(arg) > 100<<10 {
			continue // more than an environment variable takes; the worker's side is the same code
		}
		cmd := command(t, "bytes", arg)
		cmd.Startup.MaxMessage = 2 << 20
		ch, err := socket.Driver{}.Spawn(testContext(t), cmd)
		require.NoError(t, err, c.name)
		ch.Links(func(l drivers.Link) {
			_, err := next(testContext(t), l)
			require.ErrorContains(t, err, c.want, c.name)
			if strings.HasPrefix(c.name, "cut") {
				require.ErrorIs(t, err, ipc.ErrPeerGone)
			} else {
				require.ErrorIs(t, err, ipc.ErrProtocol)
			}
			_, _, again := socket.Look(l)
			require.Equal(t, err, again, "an error stays")
			require.True(t, l.Ready())
			require.Error(t, l.Send(testContext(t), &drivers.Frame{Kind: drivers.KindRequest}))
			require.NoError(t, l.Close())
		})
		_ = ch.Process().Signal(syscall.SIGKILL)
		<-ch.Process().Done()
		require.NoError(t, ch.Close())
	}
}

func TestClaimedSizeIsNotAllocatedTwice(t *testing.T) {
	const limit = 64 << 20
	a, b := socket.ConnPair(t)
	l := socket.LinkOf(t, a, limit, false)
	_, err := b.Write(append(prefix(limit, 1), make([]byte, 100)...))
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		_, ok, err := socket.Look(l)
		require.NoError(t, err)
		require.False(t, ok)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(limit+limit/2))
	require.False(t, l.Ready(), "half a frame is nothing to wake for")
}

// goroutineIn reports whether a goroutine is in a function of this name.
func goroutineIn(name string) bool { return goroutinesIn(name) > 0 }

// goroutinesIn counts the calls of a function on all stacks.
func goroutinesIn(name string) int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), name+"(")
}
