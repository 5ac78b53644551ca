package ring

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// errnos returns all error numbers of Linux, or the likely ones where tests are slow.
func errnos() (all []unix.Errno) {
	if raceEnabled || testing.Short() {
		return []unix.Errno{unix.EPERM, unix.EINTR, unix.EAGAIN, unix.ENOMEM, unix.EACCES, unix.EFAULT, unix.EINVAL, unix.ENOSYS, unix.ETIMEDOUT}
	}
	for errno := unix.Errno(1); errno <= unix.EHWPOISON; errno++ {
		all = append(all, errno)
	}
	return all
}

// brokenKernel replaces the system calls of sleeping until the test ends. It counts
// their calls. A call beyond a bound panics: a loop that spins would not end.
type brokenKernel struct {
	bound        int64
	waits, waitV atomic.Int64
}

func breakKernel(t *testing.T, bound int64, futexWait func(*uint32, uint32, time.Duration) unix.Errno, futexWaitV func([]wait.FutexWaitV) (int, unix.Errno)) *brokenKernel {
	k := &brokenKernel{bound: bound}
	t.Cleanup(wait.ReplaceSystemCalls(func(word *uint32, value uint32, timeout time.Duration) unix.Errno {
		k.count(&k.waits)
		return futexWait(word, value, timeout)
	}, func(words []wait.FutexWaitV) (int, unix.Errno) {
		k.count(&k.waitV)
		return futexWaitV(words)
	}))
	return k
}

func (k *brokenKernel) count(calls *atomic.Int64) {
	if n := calls.Add(1); n > k.bound {
		panic(fmt.Sprintf("sleepers spin: system call number %d, want at most %d", n, k.bound))
	}
}

// noneDedicated makes all sleepers use futex_waitv until the test ends.
func noneDedicated(t *testing.T) {
	wait.Dedicate(wait.MaxDedicated)
	t.Cleanup(func() { wait.Dedicate(-wait.MaxDedicated) })
}

// If futex_waitv fails, its sleepers sleep by themselves and are woken. The call is
// not repeated, and the failure is remembered if it is final.
func TestFutexWaitVErrors(t *testing.T) {
	const pairs, rounds = 5, 3
	type outcome struct {
		name  string
		woken int
		errno unix.Errno
		calls int64 // for a sleep, at most
	}
	all := []outcome{
		{"no error and no cause", 0, 0, wait.MaxIdleReturns + 1},
		{"no error and no word", -1, 0, wait.MaxIdleReturns + 1},
	}
	for _, errno := range errnos() {
		o := outcome{errno.Error(), -1, errno, 1}
		if errno == unix.EAGAIN || errno == unix.EINTR {
			o.calls = wait.MaxIdleReturns + 1
		}
		all = append(all, o)
	}
	for _, o := range all {
		t.Run(o.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(watchdog(t))
			noneDedicated(t)
			// A sleeper sleeps once in a round, or twice if it was rung before.
			k := breakKernel(t, 2*pairs*(rounds+2)*o.calls, wait.FutexWait, func([]wait.FutexWaitV) (int, unix.Errno) {
				return o.woken, o.errno
			})
			var waiting sync.WaitGroup
			var producers []*Producer
			var consumers []*Consumer
			errs := make(chan error, pairs)
			for range pairs {
				p, c := newPair(t, MinSize, 0)
				c.SetWait(WaitPark)
				producers, consumers = append(producers, p), append(consumers, c)
			}
			// alone waits until all sleep by themselves.
			sleeps := k.waits.Load()
			alone := func() {
				t.Helper()
				for sleeps += pairs; k.waits.Load() < sleeps; {
					time.Sleep(time.Microsecond)
				}
			}
			sleep := func(ctx context.Context) {
				for _, c := range consumers {
					waiting.Go(func() { errs <- c.Wait(ctx) })
				}
				alone()
			}
			for range rounds {
				sleep(ctx)
				for _, p := range producers {
					require.NoError(t, p.Write(1, nil))
				}
				waiting.Wait()
				for _, c := range consumers {
					require.NoError(t, <-errs)
					_, ok, err := c.Next()
					require.True(t, ok)
					require.NoError(t, err)
				}
				sleeps = k.waits.Load()
			}
			final := o.errno == unix.ENOSYS || o.errno == unix.EPERM
			require.Equal(t, final, wait.MultiWaitUnsupported())
			if final {
				require.LessOrEqual(t, k.waitV.Load(), int64(pairs), "in the first round only")
			}
			sleep(ctx)
			cancel()
			waiting.Wait()
			for range consumers {
				require.ErrorIs(t, <-errs, context.Canceled)
			}
			sleeps = k.waits.Load()
			sleep(context.Background())
			for _, c := range consumers {
				c.Interrupt(errLeft)
			}
			waiting.Wait()
			for range consumers {
				require.Equal(t, errLeft, <-errs)
			}
			require.Zero(t, wait.MultiWaiting())
		})
	}
}

// An error that is not final concerns one sleep. The next one uses futex_waitv.
func TestFutexWaitVRecovers(t *testing.T) {
	if errno := wait.ProbeFutexWaitV(); errno != nil {
		t.Skip("futex_waitv:", errno)
	}
	ctx := watchdog(t)
	noneDedicated(t)
	var failed atomic.Bool
	k := breakKernel(t, 100, wait.FutexWait, func(words []wait.FutexWaitV) (int, unix.Errno) {
		if failed.CompareAndSwap(false, true) {
			return -1, unix.ENOMEM
		}
		return wait.FutexWaitMany(words)
	})
	p, c := newPair(t, MinSize, 0)
	c.SetWait(WaitPark)
	for round := range 3 {
		done := make(chan error)
		go func() { done <- c.Wait(ctx) }()
		for k.waits.Load() == 0 || round > 0 && wait.MultiWaiting() == 0 {
			time.Sleep(time.Microsecond)
		}
		require.NoError(t, p.Write(1, nil))
		require.NoError(t, <-done)
		_, ok, err := c.Next()
		require.True(t, ok)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, k.waits.Load())
	for wait.MultiWaiting() > 0 { // the multi-waiter still uses the system call
		time.Sleep(time.Microsecond)
	}
}

// If even FUTEX_WAIT fails, sleepers poll with pauses, and are woken.
func TestFutexWaitErrors(t *testing.T) {
	for _, errno := range errnos() {
		for _, manyAsleep := range []bool{false, true} {
			name := errno.Error()
			if manyAsleep {
				name += ", many asleep"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if manyAsleep {
						noneDedicated(t)
					}
					// Five seconds in all. A sleep polls for 5 ms or more.
					const bound = 5 * 200 * (wait.MaxIdleReturns + 1)
					k := breakKernel(t, bound,
						func(*uint32, uint32, time.Duration) unix.Errno { return errno },
						func([]wait.FutexWaitV) (int, unix.Errno) { return -1, errno })
					p, c := newPair(t, MinSize, 0)
					p.SetWait(WaitPark)
					c.SetWait(WaitPark)
					// blocked lets sleep go on for a second, ends that, and returns
					// its error.
					blocked := func(sleep func() error, end func()) error {
						done := make(chan error, 1)
						go func() { done <- sleep() }()
						time.Sleep(time.Second)
						select {
						case err := <-done:
							t.Fatal("returned without a cause:", err)
						default:
						}
						end()
						return <-done
					}
					ctx, cancel := context.WithCancel(t.Context())
					waitData := func() error { return c.Wait(ctx) }
					waitSpace := func() error { return p.WaitSpace(ctx, 1000) }
					require.NoError(t, blocked(waitData, func() { p.Write(1, nil) }))
					for p.Write(1, make([]byte, 1000)) == nil {
					}
					require.NoError(t, blocked(waitSpace, func() {
						for _, ok, _ := c.Next(); ok; _, ok, _ = c.Next() {
						}
						c.Release()
					}))
					for p.Write(1, make([]byte, 1000)) == nil {
					}
					require.ErrorIs(t, blocked(waitSpace, cancel), context.Canceled)
					ctx = t.Context()
					require.Equal(t, errLeft, blocked(waitSpace, func() { p.Interrupt(errLeft) }))
					for _, ok, _ := c.Next(); ok; _, ok, _ = c.Next() {
					}
					require.Equal(t, errLeft, blocked(waitData, func() { c.Interrupt(errLeft) }))
					require.Positive(t, k.waits.Load())
				})
			})
		}
	}
}
