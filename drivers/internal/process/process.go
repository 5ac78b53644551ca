// Package process starts worker processes for the drivers that run on this
// machine: it hands them the control socket and the startup data, exchanges
// hellos, keeps what was said last on stderr, and reaps.
package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Process is a started child. It implements [drivers.Process].
type Process struct {
	cmd    *exec.Cmd
	stderr *stderrTail
	output *output // nil unless its lines are logged
	// hostAlive is our end of a pipe that ends with us, for the worker to see. It is
	// nil if the worker may outlive us.
	hostAlive *os.File
	done      chan struct{}

	// mu keeps the group from being signalled once its leader was reaped and
	// its number may be another's.
	mu     sync.Mutex
	reaped bool
	exit   *ipc.ExitError
}

// stdioDelay bounds how long after the exit of a worker its stdio is read, for
// grandchildren may hold it open.
const stdioDelay = 500 * time.Millisecond

// start starts the command in a process group of its own, or a session of its own
// if detached. The reaping closes hostAlive.
func start(command *drivers.Command, detached bool, hostAlive *os.File) (*Process, error) {
	cmd := command.Cmd
	p := &Process{cmd: cmd, hostAlive: hostAlive, done: make(chan struct{}), stderr: new(stderrTail)}
	if command.Output != nil {
		p.output = newOutput(command.Output)
		if cmd.Stdout == nil {
			cmd.Stdout = p.output.writer("stdout")
		}
		if cmd.Stderr == nil {
			cmd.Stderr = p.output.writer("stderr")
		}
	}
	if cmd.Stderr == nil && !detached { // a detached worker must not hold the host's stderr open after its end
		cmd.Stderr = os.Stderr
	}
	var fromChild, toUs *os.File
	if detached {
		// A pipe to a host that has gone would break.
		cmd.Stdin, cmd.Stdout, cmd.Stderr = onlyFile(cmd.Stdin), onlyFile(cmd.Stdout), onlyFile(cmd.Stderr)
	} else {
		var err error
		if fromChild, toUs, err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("tandem: pipe for stderr: %w", err)
		}
		if sameWriter(cmd.Stdout, cmd.Stderr) {
			// os/exec promises such a writer one Write at a time.
			w := &lockedWriter{w: cmd.Stdout}
			cmd.Stdout, cmd.Stderr = w, w
		}
		p.stderr.next = cmd.Stderr
		cmd.Stderr = toUs
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = stdioDelay
	}
	wait, err := startOS(cmd, detached, command.Resources.CPUs)
	if toUs != nil {
		toUs.Close()
	}
	if err != nil {
		if fromChild != nil {
			fromChild.Close()
		}
		return nil, err
	}
	if p.output != nil {
		go p.output.run(p.PID())
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		if fromChild != nil {
			p.stderr.copyFrom(fromChild)
		}
	}()
	go p.reap(wait, fromChild, copied)
	return p, nil
}

// sameWriter reports whether two writers are one, and not a file.
func sameWriter(a, b io.Writer) bool {
	if _, isFile := a.(*os.File); isFile || a == nil || b == nil {
		return false
	}
	defer func() { _ = recover() }() // of a type that cannot be compared
	return a == b
}

// lockedWriter takes one Write at a time.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// onlyFile returns v if it is a file that a child can inherit, and nil for
// what os/exec would serve with a pipe and a goroutine.
func onlyFile[T any](v T) T {
	if _, ok := any(v).(*os.File); ok {
		return v
	}
	var none T
	return none
}

// reap waits for the child with wait, which does not reap and reports whether
// it saw the end, and reaps it.
func (p *Process) reap(wait func() bool, fromChild *os.File, copied chan struct{}) {
	var err error
	if wait() {
		p.noMoreSignals()
		err = p.cmd.Wait() // which may wait for stdio
	} else {
		// Here a signal can meet a group whose leader was reaped a moment ago.
		err = p.cmd.Wait()
		p.noMoreSignals()
	}
	if p.hostAlive != nil {
		p.hostAlive.Close()
	}
	// Closed, and not sent to, since both waits end by it.
	late := make(chan struct{})
	defer time.AfterFunc(stdioDelay, func() { close(late) }).Stop()
	if fromChild != nil {
		select {
		case <-copied:
		case <-late:
		}
		// Ends the copying if a grandchild holds the other end. If the user's
		// writer blocks nothing does, and the end of the process is told.
		fromChild.Close()
	}
	if p.output != nil {
		p.output.close()
		select {
		case <-p.output.done:
		case <-late:
		}
	}
	exit := &ipc.ExitError{PID: p.PID(), Program: p.program(), Code: -1, Stderr: p.Stderr()}
	if state := p.cmd.ProcessState; state != nil {
		exit.Code = state.ExitCode()
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			exit.Signal = ws.Signal()
		}
	} else if err != nil {
		exit.Stderr += "\n(" + err.Error() + ")"
	}
	p.exit = exit
	close(p.done)
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

// Done is closed when the process has been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

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
