//go:build unix

package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// What docs/lifecycle.md says and no other test looks at.

// A worker that breaks the protocol and could be connected again is left alone,
// without a restart.
func TestProtocolErrorOfTheLinkAlone(t *testing.T) {
	cmd := worker.Self("hostile")
	cmd.Args = append(cmd.Args, "forge")
	w, err := worker.Spawn(t.Context(), cmd, socket.Driver{}, worker.WithGrace(10*time.Millisecond))
	require.NoError(t, err)
	eventually(t, "the link has ended", func() bool { return !w.Connected() })
	_, err = add.Call(t.Context(), w, pair{})
	require.ErrorIs(t, err, ipc.ErrProtocol)
	require.NotErrorIs(t, err, ipc.ErrPeerGone)
	require.False(t, gone(w.PID()))
	_ = w.Close()
}

// A worker without a connection is told by SIGTERM, and ends in order.
func TestCloseWithoutAConnection(t *testing.T) {
	leaves(t, func() error { // with exit code 0
		w, err := worker.Start(t.Context(), worker.Self("test"))
		require.NoError(t, err)
		require.NoError(t, w.Channel().Disconnect())
		return w.Close()
	})
}

// A pool replaces a worker that was disconnected.
func TestPoolReplacesTheDisconnected(t *testing.T) {
	p, err := pool.New(t.Context(), 1, worker.Self("test"), socket.Driver{}, pool.WithWorkers(worker.WithRestart(atOnce)))
	require.NoError(t, err)
	defer p.Close()
	before := p.Clients()[0]
	require.NoError(t, before.Channel().Disconnect())
	_, err = add.Call(t.Context(), p, pair{})
	require.ErrorIs(t, err, ipc.ErrDisconnected, "who finds out fails")
	_, err = add.Call(t.Context(), p, pair{})
	require.NoError(t, err)
	eventually(t, "it is closed", func() bool { return gone(before.PID()) })
}
