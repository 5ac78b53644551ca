package process

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ipc"
)

// pidfdSignalGroup makes pidfd_send_signal mean the process group (Linux 6.9).
const pidfdSignalGroup = 1 << 2

// Foreign is a process that is not our child. It implements [drivers.Process]. A
// descriptor holds the process, so its number cannot come to mean another one.
type Foreign struct {
	pid  int
	file *os.File
	raw  syscall.RawConn
	done chan struct{}
	exit *ipc.ExitError

	closing sync.Once
	left    chan struct{} // closed when the goroutine that waits has ended
}

// Find returns the process of this id that started at this time, as
// [StartTime] gives it. It fails with a [*GoneError] if there is none, and with
// [ipc.ErrExhausted] if this process is too short of descriptors to look. program is what
// to call the process in errors. The result has to be closed.
func Find(pid int, started uint64, program string) (*Foreign, error) {
	if pid <= 0 || started == 0 {
		return nil, fmt.Errorf("tandem: a process of id %d that started at tick %d cannot be found", pid, started)
	}
	fd, err := openPidFD(pid)
	switch err {
	case nil:
	case unix.ESRCH, unix.EINVAL, unix.ENOENT: // the latter two: the id of a thread
		return nil, &GoneError{PID: pid, StartTime: started}
	case unix.ENOSYS, unix.EPERM, unix.EACCES:
		return nil, fmt.Errorf("tandem: %w: open process %d: %w", ipc.ErrUnsupported, pid, os.NewSyscallError("pidfd_open", err))
	default:
		return nil, Shortage(fmt.Errorf("tandem: open process %d: %w", pid, os.NewSyscallError("pidfd_open", err)))
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// Looked at while the descriptor is open: were it another process now, the one
	// of the descriptor would have ended.
	now, err := startTime(strconv.Itoa(pid))
	if err != nil {
		f.Close()
		return nil, Shortage(err)
	}
	if now != started || exited(fd) {
		f.Close()
		if now == started {
			now = 0
		}
		return nil, &GoneError{PID: pid, StartTime: started, Now: now}
	}
	return watchForeign(f, pid, program)
}

// Peer returns the process that has made the other end of a socket, as [Find] does. It
// needs no id, so it finds a process of an outer pid namespace, too, which has none here.
// pid and program are what to call it in errors. It needs Linux 6.5,
// and otherwise fails with [ipc.ErrUnsupported].
func Peer(conn *net.UnixConn, pid int, program string) (*Foreign, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tandem: process %d: %w", pid, err)
	}
	var fd int
	failed := raw.Control(func(s uintptr) { fd, err = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	if err = cmp.Or(failed, err); IsShortage(err) {
		return nil, Shortage(fmt.Errorf("tandem: open process %d: %w", pid, os.NewSyscallError("getsockopt SO_PEERPIDFD", err)))
	} else if err != nil {
		return nil, fmt.Errorf("tandem: %w: open process %d: %w", ipc.ErrUnsupported, pid, os.NewSyscallError("getsockopt SO_PEERPIDFD", err))
	}
	_ = unix.SetNonblock(fd, true) // if it fails waiting takes a thread
	return watchForeign(os.NewFile(uintptr(fd), "pidfd"), pid, program)
}

// watchForeign takes over a pidfd.
func watchForeign(f *os.File, pid int, program string) (*Foreign, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("tandem: process %d: %w", pid, err)
	}
	p := &Foreign{pid: pid, file: f, raw: raw, done: make(chan struct{}), left: make(chan struct{})}
	go p.wait(program)
	return p, nil
}

// openPidFD opens a process for the netpoller. The flag PIDFD_NONBLOCK, which does both
// at once, is an EINVAL before Linux 5.10, as is the id of a thread.
func openPidFD(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// exited reports whether the process of a pidfd has ended.
func exited(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(p, 0); err != unix.EINTR {
			return n > 0
		}
	}
}

// wait waits in the netpoller for the end of the process, or Close.
func (p *Foreign) wait(program string) {
	defer close(p.left)
	err := p.raw.Read(func(fd uintptr) bool { return exited(int(fd)) })
	if err == nil {
		p.exit = exitOf(p.pid, program)
		close(p.done)
	}
}

// PID returns the process id.
func (p *Foreign) PID() int { return p.pid }

// Done is closed when the process has ended. After Close it may not be.
func (p *Foreign) Done() <-chan struct{} { return p.done }

// Exit says that the process has ended, with the code [ipc.ExitUnknown]; it is nil
// while the process runs.
func (p *Foreign) Exit() *ipc.ExitError {
	select {
	case <-p.done:
		return p.exit
	default:
		return nil
	}
}

// Stderr is not known of a process that others have started.
func (p *Foreign) Stderr() string { return "" }

// Signal sends sig to the process group that the process leads, or to the
// process alone where it leads none or the system cannot do that safely (before
// Linux 6.9). It never reaches another process.
func (p *Foreign) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("tandem: cannot send %v", sig)
	}
	if p.Exit() != nil {
		return os.ErrProcessDone
	}
	var sent error
	err := p.raw.Control(func(fd uintptr) {
		if sent = unix.PidfdSendSignal(int(fd), s, nil, pidfdSignalGroup); sent != nil {
			sent = unix.PidfdSendSignal(int(fd), s, nil, 0)
		}
	})
	if err != nil || sent == unix.ESRCH { // the file was closed, or the process has ended
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", sent)
}

// Close lets go of the process, which lives on.
func (p *Foreign) Close() {
	p.closing.Do(func() { p.file.Close() })
	<-p.left
}
