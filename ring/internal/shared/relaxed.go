//go:build !race && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package shared

import "sync/atomic"

// Peek loads a word that may no longer be a record's word but bytes of another
// record, just being written: the value is a hint.
func Peek(p *uint64) uint64 { return atomic.LoadUint64(p) }

// StoreRelaxed stores a word that other goroutines load atomically, without
// ordering it against anything: a plain store. Go's memory model guarantees for
// words of the machine's size that a racing load sees a value that was stored.
func StoreRelaxed(p *uint64, v uint64) { *p = v }
