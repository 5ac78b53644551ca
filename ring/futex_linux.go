package ring

import (
	"fmt"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// FUTEX_WAIT and FUTEX_WAKE without FUTEX_PRIVATE_FLAG: the word is shared
// between processes, and the kernel finds it by file and offset. Both work on a
// read-only mapping.
const (
	futexOpWait = 0
	futexOpWake = 1
)

// futexWait sleeps while *word == value, until somebody wakes the word. It may
// return early for no reason.
func futexWait(word *uint32, value uint32) error {
	// Goroutines in this P's run queue would wait until the scheduler's
	// monitor takes the P away from the blocked thread; let them go first.
	runtime.Gosched()
	switch errno := futex(word, futexOpWait, value); errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return fmt.Errorf("tandem: ring: cannot sleep: %w", os.NewSyscallError("futex", errno))
	}
}

// futexWake wakes everybody who sleeps on word. It cannot fail in a way that a
// caller could do something about.
func futexWake(word *uint32) { futex(word, futexOpWake, math.MaxInt32) }

// osYield gives the processor to another process that is ready to run on it.
func osYield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
