//go:build linux

package worker_test

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// Readers and writers that block keep neither the death of a worker from being seen,
// nor its restart, nor Close.
func TestStdioThatBlocks(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, delay := range []time.Duration{0, time.Hour} {
			in, toIn := io.Pipe() // nobody writes to it
			fromOut, out := io.Pipe()
			cmd := worker.Self("talker")
			cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = in, out, out, delay
			w, err := s.spawn(t.Context(), cmd, worker.WithRestart(worker.Restart{Delay: time.Millisecond}), worker.WithCallTimeout(0))
			require.NoError(t, err)
			for range 3 {
				var exit *worker.ExitError
				_, err := talk.Call(t.Context(), w, "exit")
				require.ErrorAs(t, err, &exit)
				require.Equal(t, 4, exit.Code)
				require.Contains(t, exit.Stderr, "last words")
			}
			_, err = talk.Call(t.Context(), w, "x")
			require.NoError(t, err, "it was started again")
			if delay == 0 {
				require.NoError(t, w.Close())
			}
			// Whoever is still stuck in them can leave.
			require.NoError(t, fromOut.Close())
			require.NoError(t, toIn.Close())
			require.NoError(t, w.Close())
		}
	})
}

// A writer that workers share gets one Write at a time, also from those that a new
// command starts. The race detector sees it if not.
func TestOneWriterForManyWorkers(t *testing.T) {
	t.Run("shm", func(t *testing.T) { testOneWriter(t, shm.Driver{}) })
	t.Run("socket", func(t *testing.T) { testOneWriter(t, socket.Driver{}) })
}

func testOneWriter[C drivers.Channel](t *testing.T, d drivers.Driver[C]) {
	var out bytes.Buffer
	command := func() *exec.Cmd {
		cmd := worker.Self("talker")
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd
	}
	p, err := pool.New(t.Context(), 4, command(), d, pool.WithConcurrency(1))
	require.NoError(t, err)
	line := strings.Repeat("x", 1000)
	lines := 0
	talkAll := func() {
		var all errgroup.Group
		for range 200 {
			all.Go(func() error {
				_, err := talk.Call(t.Context(), p, line)
				return err
			})
			lines++
		}
		require.NoError(t, all.Wait())
	}
	hellos := make(map[int]bool)
	seen := func() {
		for _, w := range p.Clients() {
			hellos[w.PID()] = true
		}
	}
	seen()
	talkAll()
	require.NoError(t, p.Replace(t.Context(), command()))
	seen()
	talkAll()
	require.NoError(t, p.Close())
	for pid := range hellos {
		require.Contains(t, out.String(), fmt.Sprintf("hello from %d\n", pid))
	}
	require.Equal(t, lines*len(line), strings.Count(out.String(), "x"))
}
