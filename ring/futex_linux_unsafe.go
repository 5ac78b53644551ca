//go:build linux

package ring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// futex is a Syscall rather than a RawSyscall since waiting blocks the thread:
// the scheduler must know.
func futex(word *uint32, op, value uint32) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(value), 0, 0, 0)
	return errno
}
