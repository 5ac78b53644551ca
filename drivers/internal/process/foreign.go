package process

import (
	"fmt"
	"os"

	"github.com/tandemipc/tandem/ipc"
)

// GoneError says that there is no process of this id that started then.
type GoneError struct {
	PID int
	// StartTime is what was asked for, Now what the process of this id has, or 0
	// if there is none.
	StartTime, Now uint64
}

func (e *GoneError) Error() string {
	if e.Now == 0 {
		return fmt.Sprintf("tandem: there is no process %d", e.PID)
	}
	return fmt.Sprintf("tandem: process %d is another one: it started at tick %d, expected %d", e.PID, e.Now, e.StartTime)
}

// Unwrap returns ipc.ErrPeerGone and os.ErrProcessDone.
func (e *GoneError) Unwrap() []error { return []error{ipc.ErrPeerGone, os.ErrProcessDone} }

// exitOf is all that can be said of the end of a process that is not our child.
func exitOf(pid int, program string) *ipc.ExitError {
	return &ipc.ExitError{PID: pid, Program: program, Code: ipc.ExitUnknown}
}
