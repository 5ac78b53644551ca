//go:build linux

package wait

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// futex is a Syscall rather than a RawSyscall since waiting blocks the thread:
// the scheduler must know.
func futex(word *uint32, op, value uint32, timeout time.Duration) unix.Errno {
	var at *unix.Timespec
	if timeout > 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		at = &ts
	}
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(value), uintptr(unsafe.Pointer(at)), 0, 0)
	return errno
}

// futexWaitV is the kernel's struct futex_waitv.
type futexWaitV struct {
	value    uint64
	word     *uint32
	_        [8 - unsafe.Sizeof(uintptr(0))]byte
	flags    uint32
	reserved uint32
}

// Flags of futexWaitV.
const (
	futexSize32 = 2
)

func waitShared(word *uint32, value uint32) futexWaitV {
	return futexWaitV{value: uint64(value), word: word, flags: futexSize32}
}

func waitPrivate(word *uint32, value uint32) futexWaitV {
	return futexWaitV{value: uint64(value), word: word, flags: futexSize32 | futexPrivate}
}

// futexWaitMany sleeps while all words have their values. It returns the number
// of one that was woken, or -1.
func futexWaitMany(words []futexWaitV) (int, unix.Errno) {
	runtime.Gosched() // as futexWait does
	n, _, errno := unix.Syscall6(unix.SYS_FUTEX_WAITV, uintptr(unsafe.Pointer(unsafe.SliceData(words))), uintptr(len(words)), 0, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}
