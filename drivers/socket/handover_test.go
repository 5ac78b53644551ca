//go:build linux

package socket_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// A host that passes something else than one socket is not served, and what it
// has passed is closed. Later hosts are served.
func TestHandoverOfSomethingElse(t *testing.T) {
	s, control := startupData(t, "")
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours := pair[0]
	defer unix.Close(ours)
	s.DriverData, err = ipc.CBOR.Append(nil, map[int]int{5: pair[1]})
	require.NoError(t, err)
	var l lines
	e, err := socket.Driver{}.Open(s, l.logger())
	require.NoError(t, err)
	defer e.Close()
	sendHello(t, control)
	hello := drivers.Hello{Codec: "cbor", MaxMessage: 1 << 20, Window: drivers.DefaultWindow}
	first, err := e.Accept(testContext(t), hello)
	require.NoError(t, err)
	require.NoError(t, first.Close())

	before := leaktest.Descriptors()
	pass := func(fds ...int) {
		t.Helper()
		require.NoError(t, unix.Sendmsg(ours, []byte{0}, unix.UnixRights(fds...), nil, 0))
		for _, fd := range fds {
			require.NoError(t, unix.Close(fd))
		}
	}
	null := func() int {
		fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		return fd
	}
	pass()
	pass(null())
	pass(null(), null())
	pass(null(), null(), null(), null(), null(), null(), null())
	tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	pass(tcp)

	a, b := socket.ConnPair(t)
	f, err := b.File()
	require.NoError(t, err)
	fd, err := unix.Dup(int(f.Fd()))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, b.Close())
	pass(fd)
	sendHello(t, a)
	second, err := e.Accept(testContext(t), hello)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	require.Contains(t, l.String(), "the host has passed 0 descriptors, expected 1")
	require.Contains(t, l.String(), "the host has passed 2 descriptors, expected 1")
	require.NoError(t, a.Close())
	eventually(t, "what was passed is closed", func() bool { return len(leaktest.LeakedDescriptors(before)) == 0 })
}

// A worker that lives and has closed its endpoint cannot be reached, and the error
// says why.
func TestHandoverToAClosedEndpoint(t *testing.T) {
	h := spawn(t, socket.Driver{Connect: socket.Connect{Attempts: 2, Delay: 1}}, "one", "")
	require.NoError(t, h.Disconnect())
	eventually(t, "the worker takes no connection", func() bool {
		err := h.Reconnect(h.ctx)
		if err == nil {
			_ = h.Disconnect()
			return false
		}
		return errors.Is(err, syscall.EPIPE) && strings.Contains(err.Error(), "after 2 attempts")
	})
	require.Nil(t, h.Process().Exit())
}
