//go:build linux

package main

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// word returns the word at an offset of m that is a multiple of 8.
func word(m []byte, offset int) *uint64 {
	_ = m[offset+7]
	return (*uint64)(unsafe.Pointer(&m[offset]))
}

// word32 is like word; it is the half of it that stopWord sets too.
func word32(m []byte, offset int) *uint32 { return (*uint32)(unsafe.Pointer(word(m, offset))) }

// Futexes that are shared between processes.
const (
	opWait = 0
	opWake = 1
)

// futexWait sleeps while *w is v. It returns false when the time is up.
func futexWait(w *uint32, v uint32, limit time.Duration) bool {
	ts := unix.NsecToTimespec(int64(limit))
	_, _, e := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), opWait, uintptr(v), uintptr(unsafe.Pointer(&ts)), 0, 0)
	return e != unix.ETIMEDOUT
}

func futexWake(w *uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), opWake, 1, 0, 0, 0) // cannot fail
}
