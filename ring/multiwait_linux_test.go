package ring

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// asleep counts the sleepers that share threads.
func asleep() int {
	multiWaiters.mu.Lock()
	defer multiWaiters.mu.Unlock()
	n := 0
	for _, w := range multiWaiters.all {
		n += len(w.sleepers)
	}
	return n
}

// Idle consumers share threads, and each is woken by its producer, by Wake and by
// its context, and by nobody else's.
func TestMultiWait(t *testing.T) {
	if errno := probeFutexWaitV(); errno != nil {
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
		for asleep() < n {
			runtime.Gosched()
		}
	}
	shared(pairs - maxDedicated)
	for round := range 3 {
		for _, i := range rand.Perm(pairs) {
			tag := byte(i + round)
			require.NoError(t, all[i].p.Write(tag, nil))
			require.Equal(t, tag, <-all[i].got)
		}
		shared(pairs - maxDedicated)
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
	shared(pairs - maxDedicated)
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
	for asleep() > 0 {
		runtime.Gosched()
	}
}

// probeFutexWaitV reports whether the kernel has it.
func probeFutexWaitV() error {
	var w uint32
	if _, errno := futexWaitMany([]futexWaitV{waitPrivate(&w, 1)}); errno != 0 && errno.Error() != "resource temporarily unavailable" {
		return fmt.Errorf("%w", errno)
	}
	return nil
}
