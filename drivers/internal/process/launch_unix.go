//go:build unix

package process

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// stdioDelay is how long after the end of a worker its stdio is copied where the
// command has no WaitDelay, and how long its last lines may take to be logged.
const stdioDelay = 500 * time.Millisecond

// A program that is open for writing (ETXTBSY) is tried again for busyLimit, after
// pauses from busyDelay to busyMaxDelay.
var busyLimit = time.Second

const (
	busyDelay    = time.Millisecond
	busyMaxDelay = 50 * time.Millisecond
)

// child is what we hold of a process until it has ended.
type child struct {
	*Process
	wait   func() bool // waits for the end and does not reap; false if it could not
	reaped func()      // to be called when it has been reaped
	stdio  *stdio
	output *output // nil unless its lines are logged
	delay  time.Duration
	// control is our end of the control socket.
	control *net.UnixConn
	// hostAlive is our end of a pipe that ends with us, for the worker to see. It is
	// nil if the worker may outlive us.
	hostAlive *os.File
}

// start starts the command in a process group of its own, or a session of its own
// if detached. The reaping closes hostAlive, and ends control for reading.
func start(ctx context.Context, command *drivers.Command, detached bool, control *net.UnixConn, hostAlive *os.File) (*Process, error) {
	cmd := command.Cmd
	c := &child{
		Process: &Process{stderr: new(stderrTail), done: make(chan struct{}), copied: make(chan struct{})},
		delay:   cmp.Or(cmd.WaitDelay, stdioDelay), control: control, hostAlive: hostAlive,
	}
	if command.Output != nil {
		c.output = newOutput(command.Output)
		if cmd.Stdout == nil {
			cmd.Stdout = c.output.writer("stdout")
		}
		if cmd.Stderr == nil {
			cmd.Stderr = c.output.writer("stderr")
		}
	}
	if cmd.Stderr == nil && !detached { // a detached worker must not hold the host's stderr open after its end
		cmd.Stderr = os.Stderr
	}
	var err error
	if c.stdio, err = newStdio(cmd, detached, c.stderr); err != nil {
		return nil, err
	}
	if err := c.launch(ctx, cmd, detached, command.Resources.CPUs); err != nil {
		c.stdio.abandon()
		return nil, err
	}
	if c.output != nil {
		go c.output.run(c.PID())
	}
	c.stdio.run()
	go c.reap()
	return c.Process, nil
}

// launch starts the process. A program that has just been written can be busy: whoever
// forks meanwhile holds a copy of the descriptor that wrote it, until it executes
// another program. So launch tries again for a while.
func (c *child) launch(ctx context.Context, cmd *exec.Cmd, detached bool, cpus int) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		c.cmd = &exec.Cmd{ // each can be started once
			Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, ExtraFiles: cmd.ExtraFiles, SysProcAttr: cmd.SysProcAttr,
			Stdin: c.stdio.stdin, Stdout: c.stdio.stdout, Stderr: c.stdio.stderr,
		}
		var err error
		c.wait, c.reaped, err = startOS(c.cmd, detached, cpus)
		if err != nil && !errors.Is(err, syscall.ETXTBSY) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(busyLimit), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: busyDelay, MaxInterval: busyMaxDelay, Multiplier: 2, RandomizationFactor: 0.25,
	}))
	return err
}

// reap waits for the end of the process, reaps it and tells of it. Then it sees to
// what the process has left to be copied.
func (c *child) reap() {
	if c.wait() {
		c.noMoreSignals()
		_ = c.cmd.Wait() // ProcessState says it all
	} else {
		// Here a signal can meet a group whose leader was reaped a moment ago.
		_ = c.cmd.Wait()
		c.noMoreSignals()
	}
	c.reaped()
	if c.hostAlive != nil {
		c.hostAlive.Close()
	}
	c.stdio.empty()
	// Without a state somebody else has reaped the process, or the kernel, as SIGCHLD is ignored.
	c.exit = &ipc.ExitError{PID: c.PID(), Program: c.program(), Code: ipc.ExitUnknown, Stderr: c.Stderr()}
	if state := c.cmd.ProcessState; state != nil {
		c.exit.Code = state.ExitCode()
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			c.exit.Signal = ws.Signal()
		}
	}
	close(c.done)
	endReading(c.control)

	c.stdio.settle(c.delay)
	if c.output != nil {
		c.output.close()
		over, stop := After(stdioDelay)
		select {
		case <-c.output.done:
		case <-over: // the logger is stuck
		}
		stop()
	}
	close(c.copied)
}
