package wait

import (
	"time"

	"golang.org/x/sys/unix"
)

// What this file has is for tests of the packages that wait.

const (
	// MaxDedicated is how many sleepers have a thread each.
	MaxDedicated = maxDedicated
	// MaxIdleReturns is how often futex_waitv may return for nothing.
	MaxIdleReturns = maxIdleReturns
)

// FutexWaitV is the kernel's struct futex_waitv.
type FutexWaitV = futexWaitV

// FutexWait and FutexWaitMany are the system calls.
var (
	FutexWait     = sysFutexWait
	FutexWaitMany = futexWaitMany
)

// ReplaceSystemCalls replaces the system calls of sleeping, until restore is called.
func ReplaceSystemCalls(wait func(*uint32, uint32, time.Duration) unix.Errno, waitV func([]FutexWaitV) (int, unix.Errno)) (restore func()) {
	oldWait, oldWaitV := sysFutexWait, sysFutexWaitV
	noBubbles.Store(true)
	sysFutexWait, sysFutexWaitV = wait, waitV
	return func() {
		sysFutexWait, sysFutexWaitV = oldWait, oldWaitV
		noBubbles.Store(false)
		multiWaiters.mu.Lock()
		defer multiWaiters.mu.Unlock()
		multiWaiters.unsupported = false
	}
}

// Dedicate counts n more sleepers that have a thread each.
func Dedicate(n int32) { dedicated.Add(n) }

// MultiWaiting counts the sleepers that share threads.
func MultiWaiting() int {
	multiWaiters.mu.Lock()
	defer multiWaiters.mu.Unlock()
	n := 0
	for _, w := range multiWaiters.all {
		n += len(w.sleepers)
	}
	return n
}

// MultiWaitUnsupported reports whether futex_waitv has failed for good.
func MultiWaitUnsupported() bool {
	multiWaiters.mu.Lock()
	defer multiWaiters.mu.Unlock()
	return multiWaiters.unsupported
}

// ProbeFutexWaitV returns nil if the kernel has futex_waitv.
func ProbeFutexWaitV() error {
	var w uint32
	if _, errno := futexWaitMany([]futexWaitV{waitPrivate(&w, 1)}); errno != 0 && errno != unix.EAGAIN {
		return errno
	}
	return nil
}
