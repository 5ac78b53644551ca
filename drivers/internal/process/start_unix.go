//go:build unix && !linux

package process

import (
	"net"
	"os/exec"
)

// startOS starts cmd. The function it returns does not wait, so that reaping
// the process is what blocks.
func startOS(cmd *exec.Cmd, detached bool, _ int) (wait func() bool, reaped func(), err error) {
	cmd.SysProcAttr = sysProcAttr(cmd, detached)
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return func() bool { return false }, func() {}, nil
}

// endReading does nothing: on this system it would drop what has arrived.
func endReading(*net.UnixConn) {}
