//go:build unix

package worker

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// A worker ends with its host, also one that has not come to Serve, whose handler does
// not heed its context, or whose main does not return.
func init() {
	if s := drivers.Startup(); s != nil && s.HostGone() != nil {
		go func() {
			<-s.HostGone()
			_ = syscall.Kill(whomToEnd(), syscall.SIGTERM)
			time.Sleep(orphanGrace)
			_ = syscall.Kill(whomToEnd(), syscall.SIGKILL)
			// Process 1 of a pid namespace gets no SIGKILL from within.
			syscall.Exit(exitKilled)
		}()
	}
}

// exitKilled is the exit code that shells give to a process that SIGKILL has ended.
const exitKilled = 128 + int(syscall.SIGKILL)

// leadsGroup reports whether the process group of this process is its own.
func leadsGroup() bool { return syscall.Getpgrp() == os.Getpid() }

// ownGroup is the process group of this process, for kill. Its negated number would
// not do: in process 1 of a pid namespace that means all processes but itself.
const ownGroup = 0

// whomToEnd is whom to signal: this process and its children, if it leads a group, or
// else itself alone, for the group is somebody else's.
func whomToEnd() int {
	if leadsGroup() {
		return ownGroup
	}
	return os.Getpid()
}

// surviveBrokenPipes makes writing to a stdout or stderr that nobody reads any more
// an error, as it is for other files. By default it ends the process.
func surviveBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
