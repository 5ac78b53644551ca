package natsipc_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// cutDialer makes connections of which the next write of many bytes finds that they are cut, if cut is set.
type cutDialer struct{ cut atomic.Bool }

func (d *cutDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, address, time.Minute)
	return &cutConn{conn, d}, err
}

type cutConn struct {
	net.Conn
	d *cutDialer
}

func (c *cutConn) Write(b []byte) (int, error) {
	if len(b) > 10_000 && c.d.cut.CompareAndSwap(true, false) {
		time.AfterFunc(10*time.Millisecond, func() { c.Close() }) // which is when whoever reads finds out
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return c.Conn.Write(b)
}

// A request that cannot be written, as its connection was cut just now, is sent again over the next one, if the method is idempotent.
func TestRequestFindsTheCut(t *testing.T) {
	sure := ipc.NewMethod[[]byte, int]("test.sure", ipc.WithIdempotent())
	unsure := ipc.NewMethod[[]byte, int]("test.unsure")
	srv := natstest.Start(t, nil)
	s := worker.NewServer()
	size := func(_ context.Context, b []byte) (int, error) { return len(b), nil }
	worker.Handle(s, sure, size)
	worker.Handle(s, unsure, size)
	there := natstest.Connect(t, srv)
	serve(t, there, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, service) })
	var d cutDialer
	nc := natstest.Connect(t, srv, nats.SetCustomDialer(&d), nats.MaxReconnects(-1), nats.ReconnectWait(time.Millisecond))
	c := natsipc.Caller(nc, "test", natsipc.WithRetry(3))
	defer c.Close()
	for _, bytes := range []int{100 << 10, 3 << 20} { // as one message, and as a stream
		d.cut.Store(true)
		n, err := sure.Call(t.Context(), c, make([]byte, bytes))
		require.NoError(t, err)
		require.Equal(t, bytes, n)
		require.False(t, d.cut.Load())
	}
	d.cut.Store(true)
	_, err := unsure.Call(t.Context(), c, make([]byte, 100<<10))
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
	require.True(t, errors.Is(err, syscall.EPIPE), err)
}
