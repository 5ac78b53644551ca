package pipeline_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pipeline"
)

// resident is how much memory a process has to itself now, in bytes.
func resident(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for l := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(l, "RssAnon: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Skip("the system does not say how much memory is resident")
	return 0
}

// Memory does not grow with an endless input, whichever stage is slow or stands still: the windows bound what is taken from the source.
func TestMemoryIsBounded(t *testing.T) {
	const window = 1 << 20
	bound := pipeline.Window(window)
	endless := func(taken *int) func(func([]byte, error) bool) {
		return func(yield func([]byte, error) bool) {
			for b := make([]byte, 1000); yield(b, nil); *taken++ {
			}
		}
	}
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 1)
		t.Run("the sink stands still", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var taken int
			opened := make(chan struct{})
			out := pipeline.Through(pipeline.Through(pipeline.From(endless(&taken)), echo, w, bound), echo, w, bound)
			errs := make(chan error, 1)
			go func() {
				errs <- out.Into(ctx, pipeline.SinkFunc[[]byte](func(context.Context, []byte) error {
					<-opened
					return nil
				}))
			}()
			full := func() bool {
				s := out.Stats().Stages
				return len(s) == 2 && s[0].Full > 0 && s[1].Full > 0 && s[0].InFlight+s[1].InFlight == 0 && s[0].Held > window/2
			}
			eventually(t, "all stand still", func() bool {
				before := out.Stats().Taken
				return full() && before == out.Stats().Taken
			})
			for _, s := range out.Stats().Stages {
				require.LessOrEqual(t, s.Held, int64(window))
			}
			require.LessOrEqual(t, out.Stats().Taken, uint64(2*window/1000+1100))
			cancel()
			close(opened)
			require.Equal(t, context.Canceled, within(t, func() error { return <-errs }))
		})
		t.Run("a stage is slow", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var taken int
			out := pipeline.Through(pipeline.Through(pipeline.From(endless(&taken)), echo, w, bound), slow, w, bound)
			errs := make(chan error, 1)
			runtime.GC()
			debug.FreeOSMemory()
			host, worker := resident(t, os.Getpid()), resident(t, w.pids()[0])
			var most int64
			go func() {
				errs <- out.Into(ctx, pipeline.SinkFunc[[]byte](func(context.Context, []byte) error { return nil }), pipeline.Drain(0))
			}()
			for began := time.Now(); time.Since(began) < 2*time.Second || out.Stats().Written == 0; time.Sleep(20 * time.Millisecond) {
				for _, s := range out.Stats().Stages {
					require.LessOrEqual(t, s.Held, int64(window+window/4))
				}
				most = max(most, resident(t, os.Getpid())-host+resident(t, w.pids()[0])-worker)
			}
			cancel()
			require.Equal(t, context.Canceled, within(t, func() error { return <-errs }))
			// The collector of a worker leaves 32 MiB alone, and garbage of the host waits for its own.
			t.Logf("%d records taken, %.1f MiB more in both processes", taken, float64(most)/(1<<20))
			if !raceEnabled {
				require.Less(t, most, int64(64<<20))
			}
		})
	})
}
