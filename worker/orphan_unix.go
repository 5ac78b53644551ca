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
			_ = syscall.Kill(ownGroup(), syscall.SIGTERM)
			time.Sleep(orphanGrace)
			_ = syscall.Kill(ownGroup(), syscall.SIGKILL)
		}()
	}
}

// ownGroup is whom to signal: this process and its children, if it leads a group, or
// else itself alone, for the group is somebody else's.
func ownGroup() int {
	if pid := os.Getpid(); syscall.Getpgrp() == pid {
		return -pid
	}
	return os.Getpid()
}

// surviveBrokenPipes makes writing to a stdout or stderr that nobody reads any more
// an error, as it is for other files. By default it ends the process.
func surviveBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
