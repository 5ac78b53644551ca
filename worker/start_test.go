//go:build unix

package worker_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

func TestDefaultDriver(t *testing.T) {
	w, err := worker.Start(t.Context(), worker.Self("test"))
	require.NoError(t, err)
	require.Equal(t, drivers.Capabilities{Reconnect: true, Detach: true}, w.Capabilities())
	require.NoError(t, w.Close())

	var none drivers.Driver[*socket.Channel]
	w, err = worker.Spawn(t.Context(), worker.Self("test"), none)
	require.NoError(t, err)
	require.NoError(t, w.Close())

	_, err = worker.Spawn[*shm.Channel](t.Context(), worker.Self("test"), nil)
	require.ErrorContains(t, err, "no driver is given")
	require.ErrorContains(t, err, "*shm.Channel")
}

func TestCapabilities(t *testing.T) {
	w, err := worker.Spawn(t.Context(), worker.Self("test"), shm.Driver{})
	require.NoError(t, err)
	defer w.Close()
	require.Equal(t, drivers.Capabilities{SharedMemory: true}, w.Capabilities())
}

func TestStartErrors(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		t.Run("program not found", func(t *testing.T) {
			_, err := s.spawn(t.Context(), exec.Command("no-such-program-anywhere"))
			require.ErrorIs(t, err, exec.ErrNotFound)
			_, err = s.spawn(t.Context(), exec.Command("/no/such/program"))
			require.ErrorContains(t, err, "/no/such/program")
		})
		t.Run("exits before hello", func(t *testing.T) {
			_, err := s.spawn(t.Context(), worker.Self("exit"))
			var exit *worker.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 7, exit.Code)
			require.ErrorContains(t, err, "before it was ready")
			require.ErrorContains(t, err, "no configuration found")
		})
		t.Run("not a worker", func(t *testing.T) {
			_, err := s.spawn(t.Context(), exec.Command("/bin/sh", "-c", "exec 0<&- 1>&-; echo no idea >&2; exec 3>&-; sleep 60"))
			require.ErrorContains(t, err, "closed its control socket")
			require.ErrorContains(t, err, "no idea")
		})
		t.Run("never says hello", func(t *testing.T) {
			_, err := s.spawn(t.Context(), worker.Self("mute"), worker.WithStartTimeout(200*time.Millisecond))
			var limit *ipc.TimeoutError
			require.ErrorAs(t, err, &limit)
			require.Equal(t, 200*time.Millisecond, limit.After)
		})
		t.Run("context ends", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := s.spawn(ctx, worker.Self("mute"))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			_, err = s.spawn(ctx, worker.Self("test"))
			require.ErrorIs(t, err, context.Canceled)
		})
		t.Run("codec mismatch", func(t *testing.T) {
			_, err := s.spawn(t.Context(), worker.Self("codec"))
			require.ErrorContains(t, err, "codec mismatch")
			require.ErrorContains(t, err, "json")
			require.ErrorContains(t, err, "cbor")
			w, err := s.spawn(t.Context(), worker.Self("codec"), worker.WithCodec(ipc.JSON))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		})
		t.Run("no entry", func(t *testing.T) {
			_, err := s.spawn(t.Context(), worker.Self("no-such-entry"))
			require.ErrorContains(t, err, "no-such-entry")
		})
		t.Run("served twice", func(t *testing.T) {
			w, err := s.spawn(t.Context(), worker.Self("twice"))
			require.NoError(t, err)
			require.NoError(t, w.Close(), "the second Serve failed, as it should")
		})
	})
}

func TestDriverMismatch(t *testing.T) {
	_, err := worker.Spawn(t.Context(), worker.Self("socket"), shm.Driver{})
	require.ErrorContains(t, err, "driver mismatch")
	require.ErrorContains(t, err, "socket")
	require.ErrorContains(t, err, "shm")
	w, err := worker.Spawn(t.Context(), worker.Self("socket"), socket.Driver{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// The worker here is a program that links the socket driver only.
func TestDriverNotLinked(t *testing.T) {
	program := filepath.Join(t.TempDir(), "socketonly")
	out, err := exec.Command("go", "build", "-o", program, "./testdata/socketonly").CombinedOutput()
	require.NoError(t, err, string(out))
	_, err = worker.Spawn(t.Context(), exec.Command(program), shm.Driver{})
	require.ErrorContains(t, err, `"shm"`)
	require.ErrorContains(t, err, "linked: socket")
	require.ErrorContains(t, err, `import _ "github.com/tandemipc/tandem/drivers/shm"`)

	w, err := worker.Spawn(t.Context(), exec.Command(program), socket.Driver{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
}
