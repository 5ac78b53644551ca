package ring

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// countSleeps counts the group's system calls until the test ends, and those that have begun
// and not ended.
func countSleeps(t *testing.T) (calls, going *atomic.Int32) {
	calls, going = new(atomic.Int32), new(atomic.Int32)
	t.Cleanup(wait.ReplaceSystemCalls(wait.FutexWait, func(words []wait.FutexWaitV) (int, unix.Errno) {
		calls.Add(1)
		going.Add(1)
		defer going.Add(-1)
		return wait.FutexWaitMany(words)
	}))
	return calls, going
}

func threads(t *testing.T) int {
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(tasks)
}

// A parked group is woken once for each ring, and does nothing while nobody rings: the number of
// its system calls is that of its sleeps. It takes no thread for each ring.
func TestGroupSleepsOnce(t *testing.T) {
	requireWaitV(t)
	ctx := watchdog(t)
	const n = 100
	g, consumers, producers := grouped(t, n, MinSize)
	g.SetWait(WaitPark)
	calls, going := countSleeps(t)
	before := threads(t)
	var waits atomic.Int32
	read := make(chan int)
	go func() {
		defer close(read)
		for {
			waits.Add(1)
			if g.Wait(ctx) != nil {
				return
			}
			for i, c := range consumers {
				if _, ok, _ := c.Next(); ok {
					read <- i
				}
			}
		}
	}()
	rounds := scaled(2000)
	for i := range rounds {
		for going.Load() == 0 {
			runtime.Gosched()
		}
		require.NoError(t, producers[i%n].Write(0, nil))
		require.Equal(t, i%n, <-read)
	}
	require.LessOrEqual(t, threads(t), before+n/4, "threads")
	for going.Load() == 0 {
		runtime.Gosched()
	}
	asleep := calls.Load()
	for range 1000 {
		runtime.Gosched()
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	require.LessOrEqual(t, calls.Load(), asleep+1, "calls while nobody rings")
	// A call may find that a word has changed just before it sleeps.
	require.LessOrEqual(t, int(calls.Load()), 2*rounds+n)
	require.LessOrEqual(t, int(waits.Load()), rounds+1)
	g.Interrupt(errors.New("end"))
	<-read
}

// Whatever is to end a sleep does so, once it has begun.
func TestGroupIsWoken(t *testing.T) {
	requireWaitV(t)
	watchdog(t)
	ended := errors.New("ended")
	for _, n := range []int{1, 5, wait.MultiWaitSize, wait.MultiWaitSize + 5} {
		for _, tt := range []struct {
			name string
			wake func(*Group, []*Consumer, []*Producer, context.CancelFunc)
			want error
		}{
			{"record", func(_ *Group, _ []*Consumer, p []*Producer, _ context.CancelFunc) { _ = p[n-1].Write(0, nil) }, nil},
			{"wake", func(g *Group, _ []*Consumer, _ []*Producer, _ context.CancelFunc) { g.Wake() }, nil},
			{"end of the context", func(_ *Group, _ []*Consumer, _ []*Producer, cancel context.CancelFunc) { cancel() }, context.Canceled},
			{"interrupt", func(g *Group, _ []*Consumer, _ []*Producer, _ context.CancelFunc) { g.Interrupt(ended) }, ended},
			{"interrupt of one", func(_ *Group, c []*Consumer, _ []*Producer, _ context.CancelFunc) { c[n-1].Interrupt(ended) }, nil},
		} {
			t.Run(tt.name, func(t *testing.T) {
				g, consumers, producers := grouped(t, n, MinSize)
				g.SetWait(WaitPark)
				_, going := countSleeps(t)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- g.Wait(ctx) }()
				for going.Load() == 0 {
					runtime.Gosched()
				}
				tt.wake(g, consumers, producers, cancel)
				require.ErrorIs(t, <-done, tt.want)
			})
		}
	}
}

// requireWaitV skips where the kernel has no futex_waitv.
func requireWaitV(t *testing.T) {
	t.Helper()
	if err := wait.ProbeFutexWaitV(); err != nil {
		t.Skipf("futex_waitv: %v", err)
	}
}

// Whatever futex_waitv says, nothing is lost, and groups of any size wait: beyond what one call takes
// other goroutines sleep, and all end with the wait.
func TestGroupWithoutFutexWaitV(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.ENOMEM, unix.EINTR, unix.EAGAIN} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			breakKernel(t, 1<<30, wait.FutexWait, func([]wait.FutexWaitV) (int, unix.Errno) { return -1, errno })
			groupMissesNothing(t, scaled(500))
			TestGroupEndsWaits(t)
			TestGroupGivesMemoryBack(t)
		})
	}
}

func TestLargeGroup(t *testing.T) {
	requireWaitV(t)
	ctx := watchdog(t)
	const n = 2*wait.MultiWaitSize + 3
	g, consumers, producers := grouped(t, n, MinSize)
	g.SetWait(WaitPark)
	_, going := countSleeps(t)
	before := threads(t)
	goroutines := runtime.NumGoroutine()
	for i := range scaled(500) {
		from := i * 37 % n
		done := make(chan error, 1)
		go func() { done <- g.Wait(ctx) }()
		for going.Load() == 0 {
			runtime.Gosched()
		}
		require.NoError(t, producers[from].Write(byte(i), nil))
		require.NoError(t, <-done)
		_, ok, err := consumers[from].Next()
		require.NoError(t, err)
		require.True(t, ok)
	}
	require.LessOrEqual(t, threads(t), before+n/4, "threads")
	for runtime.NumGoroutine() > goroutines { // they end with the wait
		runtime.Gosched()
	}
}
