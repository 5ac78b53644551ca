package measure

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pacer wakes a goroutine at given times. Go's own timers are a millisecond
// coarse in a process that is otherwise idle, and a thread that sleeps in a
// system call keeps a scheduler's P from others for a while; so this is a timer
// of the kernel that the netpoller waits for.
type Pacer struct {
	fd    int
	timer *os.File
}

// NewPacer returns a pacer for one goroutine, which has to close it.
func NewPacer() (*Pacer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &Pacer{fd, os.NewFile(uintptr(fd), "timer")}, nil
}

// Until blocks until the clock [Now] shows t.
func (p *Pacer) Until(t time.Duration) error {
	for {
		d := t - Now()
		if d <= 0 {
			return nil
		}
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
		if err := unix.TimerfdSettime(p.fd, 0, &spec, nil); err != nil {
			return os.NewSyscallError("timerfd_settime", err)
		}
		var expired [8]byte
		if _, err := p.timer.Read(expired[:]); err != nil {
			return err
		}
	}
}

// Close releases the timer.
func (p *Pacer) Close() error { return p.timer.Close() }
