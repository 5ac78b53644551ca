package process

import (
	"fmt"
	"os/exec"
	"runtime"

	"github.com/tandemipc/tandem/drivers"
)

// environ returns the environment of a worker that runs cmd, with entry, and with
// the variables by which Go bounds itself. Those that the command sets win over the
// bounds; those that it inherits do not.
func environ(cmd *exec.Cmd, r drivers.Resources, entry string) []string {
	var bounds []string
	if r.Memory > 0 {
		// Below the bound that kills, so that the collector tries hard before.
		bounds = append(bounds, fmt.Sprintf("GOMEMLIMIT=%d", r.Memory/10*9))
	}
	if r.CPUs > 0 {
		bounds = append(bounds, fmt.Sprintf("GOMAXPROCS=%d", processors(r)))
	}
	if cmd.Env == nil {
		// It has PWD if the command has a Dir. The bounds in it are our own.
		return append(append(cmd.Environ(), bounds...), entry)
	}
	return append(append(bounds, cmd.Env...), entry)
}

// processors is how many processors a worker can use at a time.
func processors(r drivers.Resources) int {
	if r.CPUs == 0 {
		return runtime.NumCPU()
	}
	return min(r.CPUs, runtime.NumCPU())
}
