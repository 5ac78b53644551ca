//go:build linux

package socket_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
)

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// noDefaultLogger fails the test if it logs to the default logger.
func noDefaultLogger(t *testing.T) {
	var l lines
	old := slog.Default()
	slog.SetDefault(l.logger())
	t.Cleanup(func() {
		slog.SetDefault(old)
		require.Empty(t, l.String())
	})
}

func TestHostLogsToTheCommandsLogger(t *testing.T) {
	noDefaultLogger(t)
	var l lines
	cmd := command(t, "echo", "")
	cmd.Logger = l.logger()
	ch, err := socket.Driver{}.Spawn(testContext(t), cmd)
	require.NoError(t, err)
	require.NoError(t, ch.Reconnect(testContext(t)))
	require.Contains(t, l.String(), "the channel is connected")
	require.NoError(t, ch.Process().Signal(syscall.SIGKILL))
	<-ch.Process().Done()
	require.NoError(t, ch.Close())
}

func TestEndpointLogsToItsLogger(t *testing.T) {
	noDefaultLogger(t)
	var l lines
	s, control := startupData(t, filepath.Join(t.TempDir(), "s"))
	e, err := socket.Driver{}.Open(s, l.logger())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	sendHello(t, control)
	hello := drivers.Hello{Codec: "cbor", MaxMessage: 1 << 20, Window: drivers.DefaultWindow}
	first, err := e.Accept(testContext(t), hello)
	require.NoError(t, err)
	require.NoError(t, first.Close())

	conn := dialRaw(t, s.Address)
	b, err := drivers.AppendHello(nil, process.Hello(drivers.Hello{Codec: "json", MaxMessage: 1 << 20, Window: drivers.DefaultWindow}, "socket", 1))
	require.NoError(t, err)
	_, err = conn.Write(b)
	require.NoError(t, err)
	errs := make(chan error, 1)
	go func() { _, err := e.Accept(testContext(t), hello); errs <- err }()
	eventually(t, "that is logged", func() bool { return bytes.Contains([]byte(l.String()), []byte("codec mismatch")) })
	require.NoError(t, e.Close())
	require.Error(t, <-errs)
}
