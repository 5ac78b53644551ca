package wait

import (
	"math"
	"sync/atomic"
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

// sysFutexWait is the system call. Tests replace it.
var sysFutexWait = func(word *uint32, value uint32, timeout time.Duration) unix.Errno {
	return futex(word, futexOpWait, value, timeout)
}

// futexWait sleeps while *word == value, until somebody wakes the word, or the
// timeout passes if it is not 0: then it returns true. It may return early for no
// reason.
//
// It has no error. Callers sleep in a loop, and a call that fails does so at once, so
// a kernel that always fails would make them spin. When the call fails, futexWait
// therefore polls for some milliseconds instead. That holds for errors that must not
// happen (EINVAL, EFAULT, ENOMEM, ENOSYS or EPERM in a sandbox, ...), for EINTR, and
// for EAGAIN when the word has not changed; when it has, polling ends at once.
func futexWait(word *uint32, value uint32, timeout time.Duration) (timedOut bool) {
	errno := sysFutexWait(word, value, timeout)
	if errno == unix.ETIMEDOUT && timeout > 0 {
		return true
	}
	if errno != 0 {
		pollWord(word, value)
	}
	return false
}

// FutexWake wakes everybody who sleeps on word. It cannot fail in a way that a
// caller could do something about.
func FutexWake(word *uint32) { futex(word, futexOpWake, math.MaxInt32, 0) }

// futexWakePrivate wakes everybody in this process who sleeps on word.
func futexWakePrivate(word *uint32) { futex(word, futexOpWake|futexPrivate, math.MaxInt32, 0) }

// nap is time.Sleep by the real clock, also in a synctest bubble, where the clock of
// package time stands still. There it holds a thread.
func nap(d time.Duration) {
	if !bubbled() {
		time.Sleep(d)
		return
	}
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal may cut it short
}

// bubbled reports whether the caller runs in a synctest bubble, whose goroutines must
// not share channels with others. Only there time.Now has no monotonic reading, which
// Round strips.
func bubbled() bool {
	now := time.Now()
	return now == now.Round(0) && !noBubbles.Load()
}

// noBubbles makes bubbled false. Tests set it whose bubble has all that they use.
var noBubbles atomic.Bool

// osYield gives the processor to another process that is ready to run on it.
func osYield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
