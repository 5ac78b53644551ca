package process

import (
	"fmt"
	"os"
	"runtime"

	"github.com/tandemipc/tandem/ipc"
)

// mapped is what a Go program maps and hardly touches, in bytes: tables of its
// heap, and whole arenas for small heaps. The kernel counts it, our users do not.
const mapped = 64 << 20

// environ returns the environment of a worker, with entry, and with those by which
// Go bounds itself. What the user's own environment says comes later, and wins.
func environ(user []string, r ipc.Resources, entry string) []string {
	var bounds []string
	if r.Memory > 0 {
		// Below the bound that kills, so that the collector tries hard before.
		bounds = append(bounds, fmt.Sprintf("GOMEMLIMIT=%d", r.Memory/10*9))
	}
	if r.CPUs > 0 {
		bounds = append(bounds, fmt.Sprintf("GOMAXPROCS=%d", min(r.CPUs, runtime.NumCPU())))
	}
	if user == nil {
		// The bounds in our own environment are ours.
		return append(append(os.Environ(), bounds...), entry)
	}
	return append(append(bounds, user...), entry)
}
