package process

import (
	"fmt"
	"os"
	"runtime"

	"github.com/tandemipc/tandem/drivers"
)

// environ returns the environment of a worker, with entry, and with those by which
// Go bounds itself. What the user's own environment says comes later, and wins.
func environ(user []string, r drivers.Resources, entry string) []string {
	var bounds []string
	if r.Memory > 0 {
		// Below the bound that kills, so that the collector tries hard before.
		bounds = append(bounds, fmt.Sprintf("GOMEMLIMIT=%d", r.Memory/10*9))
	}
	if r.CPUs > 0 {
		bounds = append(bounds, fmt.Sprintf("GOMAXPROCS=%d", processors(r)))
	}
	if user == nil {
		// The bounds in our own environment are ours.
		return append(append(os.Environ(), bounds...), entry)
	}
	return append(append(bounds, user...), entry)
}

// processors is how many processors a worker can use at a time.
func processors(r drivers.Resources) int {
	if r.CPUs == 0 {
		return runtime.NumCPU()
	}
	return min(r.CPUs, runtime.NumCPU())
}
