package worker

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
)

// A worker that starts a worker before it serves may do so because main takes it for
// the host, and so will the next one. This bounds how many are in a row.
const (
	maxSameDepth = 2 // that run the same program with the same arguments
	maxDepth     = 8 // that run any programs
)

// serving is set when this process has called Serve: it knows that it is a worker.
var serving atomic.Bool

// depth returns how many processes in a row, this one being the last, are workers
// that have not come to Serve.
func depth() int {
	if s := drivers.Startup(); s != nil && !serving.Load() {
		return s.Depth
	}
	return 0
}

// checkDepth fails if starting cmd looks like a program that starts itself again and
// again.
func checkDepth(cmd *exec.Cmd) error {
	n := depth()
	if n < maxSameDepth || n < maxDepth && !(slices.Equal(cmd.Args, os.Args) && runsUs(cmd)) {
		return nil
	}
	return refuse(fmt.Errorf("tandem: worker %d in a row starts a worker, %s, before it serves its host: it seems that the program starts itself again and again, "+
		"since its main does not know that it is the worker: start worker.Self and call worker.Main, or tell the worker by an argument", n, cmd.Path))
}

// runsUs reports whether cmd runs the program of this process.
func runsUs(cmd *exec.Cmd) bool {
	ours, err := os.Stat(Self("").Path)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(cmd.Path)
	return err == nil && os.SameFile(ours, theirs)
}
