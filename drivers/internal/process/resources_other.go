//go:build unix && !linux

package process

import (
	"fmt"
	"runtime"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// bound fails for what this system cannot do to another process. Of memory and
// processors the environment tells the worker.
func bound(_ int, r drivers.Resources) error {
	if r.Files > 0 || r.NoCoreDumps {
		return fmt.Errorf("tandem: limits of open files and core dumps: %w: %s has no prlimit", ipc.ErrUnsupported, runtime.GOOS)
	}
	return nil
}

func boundAgain(int, drivers.Resources) error { return nil }
