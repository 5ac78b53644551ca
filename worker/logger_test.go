//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
)

func init() {
	entries["logger"] = func() error {
		l := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("own", "yes")
		return worker.NewServer(worker.WithServerLogger(l)).Serve(context.Background())
	}
}

// syncBuffer is a buffer for concurrent use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What a driver has to say goes to the loggers of host and worker.
func TestDriverLogsToTheLoggersGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var log syncBuffer
	w, err := worker.Spawn(t.Context(), worker.Self("logger"), socket.Driver{Path: path}, worker.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, w.Channel().Reconnect(t.Context()))
	require.Contains(t, log.String(), "the channel is connected")

	require.NoError(t, w.Channel().Disconnect())
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer conn.Close()
	hello, err := drivers.AppendHello(nil, drivers.Hello{
		Protocol: drivers.ProtocolVersion, Driver: "socket", Layout: 1, ByteOrder: drivers.ByteOrderMark, Codec: "other",
		PID: os.Getpid(), StartTime: 1, Nonce: 1, MaxMessage: drivers.MinMaxMessage,
	})
	require.NoError(t, err)
	eventually(t, "the worker refuses it and says why", func() bool {
		// The worker may still be at the end of the link before.
		if conn, err := net.Dial("unix", path); err == nil {
			_, _ = conn.Write(hello)
			conn.Close()
		}
		said := w.Channel().Process().Stderr()
		return strings.Contains(said, "codec mismatch") && strings.Contains(said, "own=yes")
	})
	require.Panics(t, func() { worker.WithServerLogger(nil) })
}
