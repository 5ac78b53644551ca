//go:build !amd64 || race

package latest

import (
	"encoding/binary"
	"sync/atomic"
)

// copyIn copies a value into its slot, a word at a time. On machines such as arm64 a plain
// store may be seen before an atomic one that precedes it, so each word is stored atomically
// itself: that never passes the store of writing. The race detector wants the same.
func copyIn(slot, p []byte) {
	n := len(p) &^ 7
	for i := 0; i < n; i += 8 {
		atomic.StoreUint64(u64At(slot, i), binary.NativeEndian.Uint64(p[i:]))
	}
	if n < len(p) {
		var last [8]byte
		copy(last[:], p[n:])
		atomic.StoreUint64(u64At(slot[:cap(slot)], n), binary.NativeEndian.Uint64(last[:]))
	}
}

// copyOut copies a value from its slot, a word at a time. An atomic load never passes a later
// one: so all of them come before the load of writing that follows.
func copyOut(dst, slot []byte) {
	n := len(dst) &^ 7
	for i := 0; i < n; i += 8 {
		binary.NativeEndian.PutUint64(dst[i:], atomic.LoadUint64(u64At(slot, i)))
	}
	if n < len(dst) {
		var last [8]byte
		binary.NativeEndian.PutUint64(last[:], atomic.LoadUint64(u64At(slot[:cap(slot)], n)))
		copy(dst[n:], last[:])
	}
}
