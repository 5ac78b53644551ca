package engine

import (
	"context"
	"runtime"
	"sync/atomic"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// briefLock is a mutex for what is rarely wanted by two goroutines at once. Taking it is one
// locked instruction, and releasing it none on most machines: it does not look whether
// somebody waits, so those who wait look now and then.
type briefLock struct{ held uint32 }

func (l *briefLock) tryLock() bool { return atomic.CompareAndSwapUint32(&l.held, 0, 1) }

// lock takes the lock, unless ctx or other ends first, which may be nil.
func (l *briefLock) lock(ctx, other context.Context) error {
	for n, pause := 0, minPoll; !l.tryLock(); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if other != nil && other.Err() != nil {
			return other.Err()
		}
		if n < 8 {
			runtime.Gosched()
			continue
		}
		wait.Pause(pause)
		pause = min(2*pause, maxPoll)
	}
	return nil
}
