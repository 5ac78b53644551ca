// Package process starts worker processes for the drivers that run on this
// machine: it hands them the control socket and the startup data, exchanges
// hellos, keeps what was said last on stderr, and reaps.
package process

import (
	"errors"
	"os"
	"os/exec"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Process is a started child. It implements [drivers.Process] and [drivers.Copier].
type Process struct {
	cmd    *exec.Cmd
	stderr *stderrTail
	done   chan struct{}
	copied chan struct{}

	// mu keeps the group from being signalled once its leader was reaped and
	// its number may be another's.
	mu     sync.Mutex
	reaped bool
	exit   *ipc.ExitError
}

func (p *Process) noMoreSignals() {
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
}

// program is what to call the process in errors.
func (p *Process) program() string {
	if len(p.cmd.Args) > 0 {
		return p.cmd.Args[0]
	}
	return p.cmd.Path
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Locate returns the id that the process that has said remote has here, or 0 if that
// is not known. A process in a pid namespace of its own knows only its id there. It is
// the one that was started, or, if that was a wrapper, one that this has started.
func (p *Process) Locate(remote drivers.Hello) int {
	if remote.StartTime == 0 || StartTime(p.PID()) == 0 {
		return remote.PID // one side does not see processes, or this one has ended
	}
	for _, pid := range []int{p.PID(), remote.PID} {
		if StartTime(pid) == remote.StartTime && innermostPID(pid) == remote.PID {
			return pid
		}
	}
	return 0
}

// Done is closed when the process has been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Copied is closed when all that the process has written has come to where the command
// sends it, or the copies were let go, a while after the process has ended.
func (p *Process) Copied() <-chan struct{} { return p.copied }

// Exit says how the process ended, nil while it runs.
func (p *Process) Exit() *ipc.ExitError {
	select {
	case <-p.done:
		return p.exit
	default:
		return nil
	}
}

// Stderr returns the beginning of the last crash, if there is one, and the last 4 KiB
// of what the process has written.
func (p *Process) Stderr() string { return p.stderr.String() }

// Signal sends sig to the process group.
func (p *Process) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return signalGroup(p.cmd.Process, sig)
}

// Kill ends the process and its group at once and waits until it is reaped.
func (p *Process) Kill() {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		// The group is ours, so this leaves only the leader itself.
		_ = p.cmd.Process.Kill()
	}
	<-p.done
}
