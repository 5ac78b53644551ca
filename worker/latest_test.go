//go:build unix

package worker_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// progress is state that one process writes and another one reads. Its words always agree.
type progress struct{ Done, Twice uint64 }

type sharedState struct{ Progress, Counts ipc.File }

var (
	// watchState reads the host's state until that is at n, and returns how many versions it saw.
	watchState = ipc.NewMethod[sharedState, int]("test.watch_state")
	// makeState makes state, and changes it with each call of stepState.
	makeState = ipc.NewMethod[struct{}, sharedState]("test.make_state")
	stepState = ipc.NewMethod[uint64, struct{}]("test.step_state")
)

const lastProgress = 1000

// openState opens state that came in a message.
func openState(s sharedState) (*ipc.LatestReader[progress], *ipc.CountersReader, error) {
	latest, counts := s.Progress.Take(), s.Counts.Take()
	defer latest.Close()
	defer counts.Close()
	r, err := ipc.OpenLatest[progress](latest)
	if err != nil {
		return nil, nil, err
	}
	c, err := ipc.OpenCounters(counts)
	if err != nil {
		_ = r.Close()
		return nil, nil, err
	}
	return r, c, nil
}

func serveState(s *worker.Server) {
	worker.Handle(s, watchState, func(ctx context.Context, state sharedState) (seen int, err error) {
		r, c, err := openState(state)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		defer c.Close()
		for version := uint64(0); ; seen++ {
			p, next, err := r.Next(ctx, version)
			if err != nil {
				return seen, err
			}
			if p.Twice != 2*p.Done || next <= version {
				return seen, ipc.Errorf(ipc.CodeInternal, "%v after version %d: %v", next, version, p)
			}
			if version = next; p.Done == lastProgress {
				if n := c.Load(1); n != lastProgress {
					return seen, ipc.Errorf(ipc.CodeInternal, "the count is %d", n)
				}
				return seen, nil
			}
		}
	})
	var mu sync.Mutex
	var latest *ipc.Latest[progress]
	var counts *ipc.Counters
	worker.Handle(s, makeState, func(context.Context, struct{}) (sharedState, error) {
		mu.Lock()
		defer mu.Unlock()
		var err error
		if latest, err = ipc.NewLatest[progress](); err != nil {
			return sharedState{}, err
		}
		if counts, err = ipc.NewCounters(2); err != nil {
			return sharedState{}, err
		}
		progress, err := ipc.DuplicateFile(latest.File())
		if err != nil {
			return sharedState{}, err
		}
		count, err := ipc.DuplicateFile(counts.File())
		return sharedState{progress, count}, err
	})
	worker.Handle(s, stepState, func(_ context.Context, n uint64) (struct{}, error) {
		mu.Lock()
		defer mu.Unlock()
		counts.Store(1, n)
		return struct{}{}, latest.Store(progress{n, 2 * n})
	})
}

// State crosses as files, in both directions, with both drivers, and outlives its maker.
func TestSharedState(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		latest, err := ipc.NewLatest[progress]()
		if errors.Is(err, ipc.ErrUnsupported) {
			t.Skip(err)
		}
		require.NoError(t, err)
		defer latest.Close()
		counts, err := ipc.NewCounters(2)
		require.NoError(t, err)
		defer counts.Close()
		watching, err := watchState.Go(t.Context(), w, sharedState{ipc.NewFile(latest.File()), ipc.NewFile(counts.File())})
		require.NoError(t, err)
		for n := uint64(1); n <= lastProgress; n++ {
			counts.Add(1, 1)
			require.NoError(t, latest.Store(progress{n, 2 * n}))
		}
		_, err = watching.Wait(t.Context())
		require.NoError(t, err)

		state, err := makeState.Call(t.Context(), w, struct{}{})
		require.NoError(t, err)
		r, c, err := openState(state)
		require.NoError(t, err)
		defer r.Close()
		defer c.Close()
		for n := uint64(1); n <= 20; n++ {
			_, err := stepState.Call(t.Context(), w, n)
			require.NoError(t, err)
			p, _, err := r.Load()
			require.NoError(t, err)
			require.Equal(t, progress{n, 2 * n}, p)
			require.Equal(t, n, c.Load(1))
		}
		require.NoError(t, w.Close())
		p, _, err := r.Load()
		require.NoError(t, err)
		require.Equal(t, progress{20, 40}, p)
	})
}
