package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	n atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// Calls of net/http over new connections would measure connecting. Only when it is held up for 50 ms does it make one.
func TestHTTPKeepsItsConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	counting := &countingListener{Listener: l}
	ended := make(chan error, 1)
	go func() { ended <- netHTTP.serve(counting) }()
	c, err := netHTTP.dial(context.Background(), path, 1)
	require.NoError(t, err)
	for _, size := range []int{0, 1, 64, 5000, 1 << 20, 64} {
		request := bytes.Repeat([]byte{byte(size), 7}, size/2)
		response, err := c.Echo(0)(context.Background(), request)
		require.NoError(t, err)
		require.Equal(t, request, response)
	}
	require.NoError(t, c.Close())
	require.NoError(t, l.Close())
	require.Error(t, <-ended)
	require.Less(t, counting.n.Load(), int32(5))
}

// go-plugin's process is another one, says what it used, and ends with the client.
func TestGoPluginHasItsOwnProcess(t *testing.T) {
	m, c, err := startGoPlugin(context.Background(), t.TempDir())
	require.NoError(t, err)
	defer c.Close()
	process := c.(*goPluginClient).process
	pid, err := strconv.Atoi(process.ID())
	require.NoError(t, err)
	require.NotEqual(t, os.Getpid(), pid)
	s, err := suite.Load{Worker: m, New: func(i int) suite.Operation { return suite.NewEcho(c.Echo(i), 64) }}.Run(context.Background(), time.Millisecond)
	require.NoError(t, err)
	require.Positive(t, s.Ops)
	require.Positive(t, s.Worker.Mallocs)
	require.NoError(t, c.Close())
	require.True(t, process.Exited())
	_, err = suite.Load{Worker: m, New: func(i int) suite.Operation { return suite.NewEcho(c.Echo(i), 64) }}.Run(context.Background(), time.Millisecond)
	require.ErrorContains(t, err, "go-plugin (pid "+process.ID())
}

// Payloads above the 4 MiB that gRPC takes by default.
func TestLargePayloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	var out, errs bytes.Buffer
	args := []string{"-rounds", "1", "-duration", "1ms", "-sizes", "5Mi", "-subjects", "net/http,grpc,go-plugin", "-json", path, "call"}
	require.Zero(t, calm().Main(args, &out, &errs), errs.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.Len(t, d.Results, 3, out.String())
}
