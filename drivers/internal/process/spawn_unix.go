//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// Options of [Spawn].
type Options struct {
	// Detached gives the worker a session of its own and lets it outlive us.
	Detached bool
	// Inherit, if set, is called before the start. add gives the worker one more
	// file, which it takes over, and returns its number there.
	Inherit func(add func(*os.File) int) error
}

// Spawn starts cmd with one end of a new control socket and runs handshake on
// the other end. When it fails, or ctx ends, the process is killed and reaped,
// and the error says what the worker said or how it ended. It wraps
// [ipc.ErrExhausted] if either side is short of a resource.
func Spawn(ctx context.Context, cmd *drivers.Command, opts Options, handshake func(*net.UnixConn) error) (*Process, *net.UnixConn, error) {
	p, control, err := spawnWorker(ctx, cmd, opts, handshake)
	return p, control, Shortage(err)
}

func spawnWorker(ctx context.Context, cmd *drivers.Command, opts Options, handshake func(*net.UnixConn) error) (*Process, *net.UnixConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	if cmd.Cmd.Err != nil {
		return nil, nil, fmt.Errorf("tandem: start worker: %w", cmd.Cmd.Err)
	}
	if opts.Detached && cmd.Output != nil {
		return nil, nil, errors.New("tandem: a detached worker may outlive its host, so its output cannot be logged there: " +
			"give it files as Stdout and Stderr, or leave Output out (worker.WithOutput)")
	}
	given := files{cmd: cmd.Cmd}
	defer given.close() // the worker has copies
	ours, theirs, err := fdpass.Socketpair(unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	cmd.Startup.Control = given.add(theirs)
	var hostAlive *os.File
	if !opts.Detached {
		var end *os.File
		if end, hostAlive, err = os.Pipe(); err != nil {
			ours.Close()
			return nil, nil, fmt.Errorf("tandem: pipe to the worker: %w", err)
		}
		cmd.Startup.HostAlive = given.add(end)
	}
	if opts.Inherit != nil {
		err = opts.Inherit(given.add)
	}
	var p *Process
	if err == nil {
		p, err = startWith(ctx, cmd, opts, &given, ours, hostAlive)
	}
	if err != nil {
		ours.Close()
		if hostAlive != nil {
			hostAlive.Close()
		}
		return nil, nil, err
	}
	given.close() // so that the end of the worker is the end of the socket
	if cmd.Started != nil {
		cmd.Started(p.PID())
	}

	stop := context.AfterFunc(ctx, func() { _ = ours.SetDeadline(time.Unix(1, 0)) })
	err = handshake(ours)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = boundAgain(p.PID(), cmd.Resources)
	}
	if err == nil {
		return p, ours, nil
	}
	ours.Close()
	return nil, nil, p.failed(ctx, err, cmd.Hint)
}

// files are what a command inherits beside the user's own, whose numbers stay.
type files struct {
	cmd   *exec.Cmd
	added []*os.File
}

// add returns the number that f, which it takes over, will have in the worker.
func (g *files) add(f *os.File) int {
	g.added = append(g.added, f)
	g.cmd.ExtraFiles = append(g.cmd.ExtraFiles, f)
	return 2 + len(g.cmd.ExtraFiles)
}

// inodes returns the inodes of the added files by the numbers that they will have.
func (g *files) inodes() map[int]uint64 {
	if runtime.GOOS != "linux" {
		return nil // sockets and pipes may have none
	}
	all := make(map[int]uint64)
	first := 3 + len(g.cmd.ExtraFiles) - len(g.added)
	for i, f := range g.added {
		if info, err := f.Stat(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				all[first+i] = uint64(st.Ino)
			}
		}
	}
	return all
}

func (g *files) close() {
	for _, f := range g.added {
		f.Close()
	}
	g.added = nil
}

// startWith starts cmd with what it asks for.
func startWith(ctx context.Context, cmd *drivers.Command, opts Options, given *files, control *net.UnixConn, hostAlive *os.File) (*Process, error) {
	path := cmd.Cmd.Path
	if cmd.Checksum != nil {
		if err := verify(cmd, given); err != nil {
			return nil, err
		}
	}
	cmd.Startup.Inodes = given.inodes()
	entry, err := cmd.Startup.Env()
	if err != nil {
		return nil, err
	}
	cmd.Cmd.Env = environ(cmd.Cmd, cmd.Resources, entry)
	p, err := start(ctx, cmd, opts.Detached, control, hostAlive)
	if err != nil {
		if cmd.Cmd.Dir != "" {
			path += " in " + cmd.Cmd.Dir // which may be what does not exist
		}
		return nil, fmt.Errorf("tandem: start worker %s: %w", path, err)
	}
	if err := bound(p.PID(), cmd.Resources); err != nil {
		p.Kill()
		return nil, fmt.Errorf("tandem: start worker %s: %w", path, err)
	}
	return p, nil
}

// failed ends a worker whose handshake failed with err, and says why. If that is not
// known it asks hint.
func (p *Process) failed(ctx context.Context, err error, hint string) error {
	if ctx.Err() == nil {
		over, stop := After(drivers.ExitDelay)
		select {
		case <-p.done:
		case <-ctx.Done():
		case <-over:
		}
		stop()
	}
	exit := p.Exit()
	p.Kill()
	<-p.copied // for the user to find all that the worker has said
	if hint != "" {
		hint = "; " + hint
	}
	var refused *ipc.RefusedError
	var mismatch *ipc.MismatchError
	switch {
	case errors.As(err, &refused), errors.As(err, &mismatch), errors.Is(err, ipc.ErrProtocol):
		return fmt.Errorf("tandem: start worker %s (pid %d): %w", p.program(), p.PID(), err)
	case exit != nil && HungUp(err) && exit.Code == 0:
		return fmt.Errorf("tandem: worker ended before it was ready: %w%s; a wrapper that starts the worker as another process has to last as long as that", exit, hint)
	case exit != nil && HungUp(err):
		return fmt.Errorf("tandem: worker ended before it was ready: %w", exit)
	case ctx.Err() != nil:
		return fmt.Errorf("tandem: worker %s (pid %d) is not ready: %w%s%s", p.program(), p.PID(), context.Cause(ctx), hint, p.lastWords())
	case HungUp(err):
		return fmt.Errorf("%w: worker %s (pid %d) closed its control socket before it was ready%s%s", ipc.ErrPeerGone, p.program(), p.PID(), hint, p.lastWords())
	}
	return fmt.Errorf("tandem: start worker %s (pid %d): %w%s", p.program(), p.PID(), err, p.lastWords())
}

func (p *Process) lastWords() string {
	if s := p.Stderr(); s != "" {
		return "; its last words: " + s
	}
	return ""
}

// Control returns the worker's end of the control socket. If it cannot, it tells the host
// why.
func Control(s *drivers.StartupData) (*net.UnixConn, error) {
	f, err := s.TakeControl()
	if err != nil {
		return nil, err
	}
	defer f.Close() // Conn makes another descriptor
	conn, err := fdpass.Conn(f)
	if err != nil {
		err = Shortage(err)
		Refuse(f, err)
	}
	return conn, err
}

// nap sleeps for a millisecond at least, by the real clock, and holds a thread. A signal
// may cut it short.
func nap(d time.Duration) { _, _ = unix.Poll(nil, int(max(d.Milliseconds(), 1))) }

func signalGroup(p *os.Process, sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("tandem: cannot send %v", sig)
	}
	if err := unix.Kill(-p.Pid, s); err == nil {
		return nil
	}
	return p.Signal(sig)
}

// sysProcAttr returns a copy of the user's attributes with ours added.
func sysProcAttr(cmd *exec.Cmd, detached bool) *syscall.SysProcAttr {
	attr := new(syscall.SysProcAttr)
	if cmd.SysProcAttr != nil {
		*attr = *cmd.SysProcAttr
	}
	switch {
	case detached:
		attr.Setsid = true
	case !attr.Setsid:
		// A group of its own: signals to it reach the worker's children, and
		// Ctrl-C in a terminal reaches the host alone, which then drains.
		attr.Setpgid = true
	}
	return attr
}
