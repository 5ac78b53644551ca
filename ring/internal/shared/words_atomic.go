//go:build !amd64 || race

package shared

import (
	"encoding/binary"
	"sync/atomic"
)

// InPlace says that memory which others read may not be written by plain stores.
const InPlace = false

// CopyIn copies p to memory that others read, a word at a time. On machines such as arm64 a plain
// store may be seen before an atomic one that precedes it, so each word is stored atomically
// itself: that never passes an earlier store. The race detector wants the same. The capacity of to
// has room for whole words.
func CopyIn(to, p []byte) {
	n := len(p) &^ 7
	for i := 0; i < n; i += 8 {
		atomic.StoreUint64(At64(to, i), binary.NativeEndian.Uint64(p[i:]))
	}
	if n < len(p) {
		var last [8]byte
		copy(last[:], p[n:])
		atomic.StoreUint64(At64(to[:cap(to)], n), binary.NativeEndian.Uint64(last[:]))
	}
}

// CopyOut copies memory that somebody else writes, a word at a time. An atomic load never passes a later
// one: so all of them come before an atomic load that follows. The capacity of from has room
// for whole words.
func CopyOut(dst, from []byte) {
	n := len(dst) &^ 7
	for i := 0; i < n; i += 8 {
		binary.NativeEndian.PutUint64(dst[i:], atomic.LoadUint64(At64(from, i)))
	}
	if n < len(dst) {
		var last [8]byte
		binary.NativeEndian.PutUint64(last[:], atomic.LoadUint64(At64(from[:cap(from)], n)))
		copy(dst[n:], last[:])
	}
}

// Store stores a word among what CopyIn copies.
func Store(p *uint64, v uint64) { atomic.StoreUint64(p, v) }
