package process

import (
	"cmp"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// startOS starts cmd. It returns a function that waits for the end of the process and
// does not reap it, and one that has to be called when the process has been reaped.
func startOS(cmd *exec.Cmd, detached bool, cpus int) (wait func() bool, reaped func(), err error) {
	attr := sysProcAttr(cmd, detached)
	if attr.PidFD != nil {
		return nil, nil, errors.New("SysProcAttr.PidFD of the command is set, and is of no use for a worker, which may be started again")
	}
	if !detached && attr.Pdeathsig == 0 {
		// The second net; the first is that the worker sees its control socket
		// end. SIGTERM, so that the worker may still tidy up.
		attr.Pdeathsig = syscall.SIGTERM
	}
	pidfd := -1
	attr.PidFD = &pidfd
	cmd.SysProcAttr = attr
	var unbound error
	s := useStarter()
	s.do(func() { unbound = onCPUs(cpus, func() { err = cmd.Start() }) })
	if err = cmp.Or(err, unbound); err != nil {
		s.leave()
		return nil, nil, err
	}
	reaped = s.leave
	if attr.Pdeathsig == 0 {
		s.leave()
		reaped = func() {}
	}
	return func() bool { return waitPidFD(pidfd) }, reaped, nil
}

// waitPidFD waits in the netpoller, so that a waiting host needs no thread for
// each of its workers. It returns false at once if that is not possible.
func waitPidFD(fd int) bool {
	if fd < 0 {
		return false
	}
	if unix.SetNonblock(fd, true) != nil {
		unix.Close(fd)
		return false
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		ended = n > 0
		return ended || err != nil && err != unix.EINTR
	})
	return ended && err == nil
}

// endReading makes c end when all that has arrived is read. It is called when the
// process at the other end has ended, whose descendants may hold that end open.
func endReading(c *net.UnixConn) {
	_ = c.CloseRead() // it fails if c is closed, or has ended
}
