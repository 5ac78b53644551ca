package ring

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// Idle consumers share threads, and each is woken by its producer, by Wake and by
// its context, and by nobody else's.
func TestMultiWait(t *testing.T) {
	if errno := wait.ProbeFutexWaitV(); errno != nil {
		t.Skip("futex_waitv:", errno)
	}
	const pairs = 300
	type pair struct {
		p   *Producer
		c   *Consumer
		got chan byte
	}
	all := make([]pair, pairs)
	ctx, cancel := context.WithCancel(t.Context())
	errStop := errors.New("stop")
	var wg sync.WaitGroup
	ended := make(chan error, pairs)
	for i := range all {
		a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
		p, _, err := Join(a, b)
		require.NoError(t, err)
		_, c, err := Join(b, a)
		require.NoError(t, err)
		c.SetWait(WaitPark)
		all[i] = pair{p, c, make(chan byte, 1)}
		wg.Go(func() {
			for {
				if err := c.Wait(ctx); err != nil {
					ended <- err
					return
				}
				for {
					r, ok, err := c.Next()
					if err != nil {
						t.Error(err)
					}
					if !ok {
						break
					}
					all[i].got <- r.Tag
				}
			}
		})
	}
	shared := func(n int) {
		t.Helper()
		for wait.MultiWaiting() < n {
			runtime.Gosched()
		}
	}
	shared(pairs - wait.MaxDedicated)
	for round := range 3 {
		for _, i := range rand.Perm(pairs) {
			tag := byte(i + round)
			require.NoError(t, all[i].p.Write(tag, nil))
			require.Equal(t, tag, <-all[i].got)
		}
		shared(pairs - wait.MaxDedicated)
	}
	// At once, from several goroutines.
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := w; i < pairs; i += 4 {
				if err := all[i].p.Write(7, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for i := range all {
		require.EqualValues(t, 7, <-all[i].got)
	}
	shared(pairs - wait.MaxDedicated)
	for i := range pairs / 2 {
		all[i].c.Interrupt(errStop)
	}
	for range pairs / 2 {
		require.Equal(t, errStop, <-ended)
	}
	cancel()
	for range pairs - pairs/2 {
		require.ErrorIs(t, <-ended, context.Canceled)
	}
	wg.Wait()
	for wait.MultiWaiting() > 0 {
		runtime.Gosched()
	}
}
