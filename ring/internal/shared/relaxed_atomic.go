//go:build race || !(amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package shared

import "sync/atomic"

// StoreRelaxed is an ordinary atomic store where a plain one would be reported
// by the race detector or could be torn.
func StoreRelaxed(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

// Peek hides the load of a hint from the race detector, which would report it
// against the plain stores of a payload.
//
//go:norace
//go:noinline
func Peek(p *uint64) uint64 {
	// Arm's store must come before the load: an atomic read-modify-write is
	// a fence, and on a variable of its own it orders nothing else.
	var fence atomic.Uint32
	fence.Add(1)
	return *p
}
