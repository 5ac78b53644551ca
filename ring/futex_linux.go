package ring

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// FUTEX_WAIT and FUTEX_WAKE without FUTEX_PRIVATE_FLAG: the word is shared
// between processes, and the kernel finds it by file and offset. Both work on a
// read-only mapping.
const (
	futexOpWait = 0
	futexOpWake = 1

	futexPrivate = 128 // of a word on the heap
)

// errFutexTimeout: the time has passed.
var errFutexTimeout = errors.New("tandem: ring: sleep timed out")

// futexWait sleeps while *word == value, until somebody wakes the word, or the
// timeout passes if it is not 0. It may return early for no reason.
func futexWait(word *uint32, value uint32, timeout time.Duration) error {
	// Goroutines in this P's run queue would wait until the scheduler's
	// monitor takes the P away from the blocked thread; let them go first.
	runtime.Gosched()
	switch errno := futex(word, futexOpWait, value, timeout); errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return nil
	case unix.ETIMEDOUT:
		return errFutexTimeout
	default:
		return fmt.Errorf("tandem: ring: cannot sleep: %w", os.NewSyscallError("futex", errno))
	}
}

// futexWake wakes everybody who sleeps on word. It cannot fail in a way that a
// caller could do something about.
func futexWake(word *uint32) { futex(word, futexOpWake, math.MaxInt32, 0) }

// futexWakePrivate wakes everybody in this process who sleeps on word.
func futexWakePrivate(word *uint32) { futex(word, futexOpWake|futexPrivate, math.MaxInt32, 0) }

// osYield gives the processor to another process that is ready to run on it.
func osYield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
