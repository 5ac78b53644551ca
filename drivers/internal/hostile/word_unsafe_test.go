//go:build linux

package hostile

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// store64 and load64 access a word of shared memory at the begin of b as the ring does.
func store64(b []byte, v uint64) { atomic.StoreUint64((*uint64)(unsafe.Pointer(&b[0])), v) }

func load64(b []byte) uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[0]))) }

func store32(b []byte, v uint32) { atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), v) }

// wake wakes all that sleep on the word at the begin of b.
func wake(b []byte) {
	const futexWake = 1
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b[0])), futexWake, 1<<30, 0, 0, 0)
}
