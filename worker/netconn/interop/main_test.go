//go:build unix

package interop

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

var (
	// splice makes the worker connect the next connection to "left" with one that it dials to "right".
	splice = ipc.NewMethod[int, int]("interop.splice")
	// dialBack makes the worker be a client of the host's server.
	dialBack = ipc.NewMethod[string, string]("interop.dial_back")
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("interop", serveAll)
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

// serveAll serves everything that the tests need, each under its name.
func serveAll() error {
	s := worker.NewServer()
	left := netconn.Listen(s, "left")
	worker.Handle(s, splice, func(ctx context.Context, _ int) (int, error) {
		a, err := left.Accept()
		if err != nil {
			return 0, err
		}
		b, err := netconn.Dial(ctx, worker.Host(ctx), "right")
		if err != nil {
			return 0, errors.Join(err, a.Close())
		}
		go join(a, b)
		return 0, nil
	})
	worker.Handle(s, dialBack, func(ctx context.Context, text string) (string, error) {
		c, err := netconn.Dial(ctx, worker.Host(ctx), "host.rpc")
		if err != nil {
			return "", err
		}
		return callRPC(c, text)
	})
	serveGRPC(netconn.Listen(s, "grpc"))
	serveHTTP(netconn.Listen(s, "http"), netconn.Listen(s, "h2c"))
	serveWebSockets(netconn.Listen(s, "websocket"))
	serveRPC(netconn.Listen(s, "rpc"))
	return s.Serve(context.Background())
}

// join passes bytes between two connections, until both directions have ended.
func join(a, b net.Conn) {
	failed := make(chan error, 2)
	pass := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.(*netconn.Conn).CloseWrite()
		}
		failed <- err
	}
	go pass(a, b)
	go pass(b, a)
	if <-failed == nil {
		<-failed
	}
	_, _ = a.Close(), b.Close()
}

// client is what the tests need of a worker.Client of any driver.
type client interface {
	ipc.Caller
	worker.Registrar
	PID() int
	Close() error
}

// eachDriver runs a test with a worker of each driver.
func eachDriver(t *testing.T, test func(t *testing.T, w client)) {
	t.Run("shm", func(t *testing.T) { test(t, start(t, shm.Driver{})) })
	t.Run("socket", func(t *testing.T) { test(t, start(t, socket.Driver{})) })
}

func start[C drivers.Channel](t *testing.T, d drivers.Driver[C]) client {
	t.Helper()
	w, err := worker.Spawn(context.Background(), worker.Self("interop"), d, worker.WithStartTimeout(time.Minute))
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// patience bounds what a test waits for.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// kill ends the worker's process as a crash does.
func kill(t *testing.T, w client) {
	t.Helper()
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
}

// random is a reader of so many bytes, and sum is what sha256 makes of them.
func random(size int64, seed uint64) (r io.Reader, sum string) {
	h := sha256.New()
	_, _ = io.CopyN(h, rand.NewChaCha8([32]byte{byte(seed)}), size)
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size), fmt.Sprintf("%x", h.Sum(nil))
}

// sumOf reads r to its end.
func sumOf(r io.Reader) (sum string, size int64, err error) {
	h := sha256.New()
	size, err = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil)), size, err
}
