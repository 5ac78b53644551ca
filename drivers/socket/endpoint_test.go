//go:build linux

package socket_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// local is an endpoint in this process, with the first link taken.
type local struct {
	drivers.Endpoint
	path  string
	link  drivers.Link
	hello drivers.Hello
}

// localEndpoint opens an endpoint as a worker does; it returns the host's end
// of the first link too.
func localEndpoint(t *testing.T) (*local, drivers.Link) {
	e, startup, control := openEndpoint(t)
	sendHello(t, control)
	l := &local{Endpoint: e, path: startup.Address, hello: drivers.Hello{Codec: "cbor", MaxMessage: 1 << 20, Window: drivers.DefaultWindow}}
	var err error
	l.link, err = e.Accept(testContext(t), l.hello)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.link.Close()) })
	_, err = drivers.ReadHello(control)
	require.NoError(t, err)
	return l, socket.LinkOf(t, control, 1<<20, false)
}

func TestEndpointAccept(t *testing.T) {
	e, first := localEndpoint(t)

	// Accept waits as long as its context says.
	ctx, cancel := context.WithCancel(testContext(t))
	errs := make(chan error, 1)
	go func() { _, err := e.Accept(ctx, e.hello); errs <- err }()
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)

	// Nobody is answered before there is an Accept.
	require.NoError(t, first.Close())
	conn := dialRaw(t, e.path)
	sendHello(t, conn)
	l, err := e.Accept(testContext(t), e.hello)
	require.NoError(t, err)
	_, err = drivers.ReadHello(conn)
	require.NoError(t, err)

	// One that does not agree is told so, and does not end Accept.
	require.NoError(t, l.Close())
	links := make(chan drivers.Link)
	go func() {
		l, err := e.Accept(testContext(t), e.hello)
		links <- l
		errs <- err
	}()
	other := dialRaw(t, e.path)
	b, err := drivers.AppendHello(nil, process.Hello(drivers.Hello{Codec: "json", MaxMessage: 1 << 20, Window: drivers.DefaultWindow}, "socket", 1))
	require.NoError(t, err)
	_, err = other.Write(b)
	require.NoError(t, err)
	hello, err := drivers.ReadHello(other)
	require.NoError(t, err)
	require.Equal(t, "cbor", hello.Codec)
	_, err = other.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	good := dialRaw(t, e.path)
	sendHello(t, good)
	_, err = drivers.ReadHello(good)
	require.NoError(t, err)
	l = <-links
	require.NoError(t, <-errs)
	require.NoError(t, good.Close())
	eventually(t, "the end arrives", l.Ready)
	_, _, err = socket.Look(l)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.NotErrorIs(t, err, ipc.ErrPeerGone)
	require.NoError(t, l.Close())

	// Close ends an Accept, and removes the file.
	go func() { _, err := e.Accept(testContext(t), e.hello); errs <- err }()
	require.NoError(t, e.Close())
	require.ErrorIs(t, <-errs, ipc.ErrClosed)
	require.NoError(t, e.Close())
	require.NoFileExists(t, e.path)
}

func TestEndpointCloseEndsTheFirstAccept(t *testing.T) {
	e, startup, _ := openEndpoint(t)
	errs := make(chan error, 1)
	go func() { _, err := e.Accept(testContext(t), drivers.Hello{Codec: "cbor"}); errs <- err }()
	eventually(t, "Accept waits for the hello", func() bool { return goroutineIn("socket.hear") })
	require.NoError(t, e.Close())
	require.ErrorIs(t, <-errs, ipc.ErrClosed)
	require.NoFileExists(t, startup.Address)
}

func TestOpenTellsTheHostWhyNot(t *testing.T) {
	s, control := startupData(t, filepath.Join(t.TempDir(), "none", "s"))
	_, err := socket.Driver{}.Open(s, nil)
	require.ErrorContains(t, err, "no such file")
	_, err = drivers.ReadHello(control)
	var refused *ipc.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "no such file")
}

func openEndpoint(t *testing.T) (drivers.Endpoint, *drivers.StartupData, *net.UnixConn) {
	s, control := startupData(t, filepath.Join(t.TempDir(), "s"))
	e, err := socket.Driver{}.Open(s, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e, s, control
}

// startupData is what a host would pass, with a control socket whose other end
// is returned.
func startupData(t *testing.T, path string) (*drivers.StartupData, *net.UnixConn) {
	ours, theirs := socket.ConnPair(t)
	f, err := theirs.File()
	require.NoError(t, err)
	fd, err := syscall.Dup(int(f.Fd())) // TakeControl owns it
	require.NoError(t, err)
	syscall.CloseOnExec(fd)
	require.NoError(t, f.Close())
	require.NoError(t, theirs.Close())
	return &drivers.StartupData{Driver: "socket", Codec: "cbor", Control: fd, Address: path, DriverData: []byte{0xa0}}, ours
}
