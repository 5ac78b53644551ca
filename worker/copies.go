package worker

import (
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// copies are of the stdio of a client's processes, of which those that have ended may
// still have something to be copied.
type copies []drivers.Copier

// follow adds the copies of a process, and drops those that have ended.
func (c *copies) follow(p drivers.Process) {
	var left copies
	for _, of := range *c {
		if !wait.Closed(of.Copied()) {
			left = append(left, of)
		}
	}
	if of, ok := p.(drivers.Copier); ok {
		left = append(left, of)
	}
	*c = left
}

// await waits for the copies of all processes that have ended.
func (c copies) await() {
	for _, of := range c {
		if of.Exit() != nil {
			<-of.Copied()
		}
	}
}
