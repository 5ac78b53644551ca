package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// oddHost is the name of a host that is odd in a way. Its arguments are the driver, the
// way, and the file in which it says how that went, for it may have no stdout.
const oddHost = "test-odd-host"

func init() { programs[oddHost] = beOddHost }

// foreground is the oddity of a host that gives its terminal to its worker.
const foreground = "gives its terminal away"

// oddities are what makes a host odd before it starts a worker.
var oddities = map[string]func() error{
	"ignores signals": func() error {
		signal.Ignore(syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGCHLD, syscall.SIGUSR1)
		return nil
	},
	"blocks signals": func() error {
		// Of this thread alone, which may be any; Go unblocks them in its children.
		var all unix.Sigset_t
		for i := range all.Val {
			all.Val[i] = ^all.Val[i]
		}
		return unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil)
	},
	"closes its stdio": func() error {
		return errors.Join(os.Stdin.Close(), os.Stdout.Close(), os.Stderr.Close())
	},
	"closes the descriptors of its stdio": func() error {
		for fd := range 3 {
			if err := syscall.Close(fd); err != nil {
				return err
			}
		}
		return nil
	},
	"changes directory": func() error { return os.Chdir("/") },
	"has a removed directory": func() error {
		dir, err := os.MkdirTemp("", "gone")
		if err != nil {
			return err
		}
		return errors.Join(os.Chdir(dir), os.Remove(dir))
	},
	"clears its environment": func() error { os.Clearenv(); return nil },
	"has no umask left":      func() error { syscall.Umask(0o777); return nil },
	"is a subreaper":         func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) },
	"cannot be traced":       func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) },
	"has few descriptors": func() error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
	},
}

func beOddHost() error {
	report, err := os.OpenFile(os.Args[3], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if report.Fd() <= 2 { // it stays when those are closed
		high, err := unix.FcntlInt(report.Fd(), unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			return err
		}
		report = os.NewFile(uintptr(high), "report")
	}
	if odd, ok := oddities[os.Args[2]]; ok {
		err = odd()
	}
	for _, s := range spawners {
		if s.name == os.Args[1] && err == nil {
			cmd := worker.Self("test")
			if os.Args[2] == foreground {
				cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
			}
			err = live(s, cmd)
		}
	}
	if err == nil {
		_, err = report.WriteString("fine")
	} else {
		_, _ = report.WriteString(err.Error())
	}
	return err
}

// live starts a worker twice: one is closed in order, the other crashes.
func live(s spawner, cmd *exec.Cmd) error {
	w, err := s.spawn(context.Background(), cmd)
	if err != nil {
		return err
	}
	worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	if err := callAdd(w, 41); err != nil {
		return err
	}
	if n, err := callback.Call(context.Background(), w, 21); err != nil || n != 42 {
		return fmt.Errorf("called back: %d, %w", n, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if w, err = s.spawn(context.Background(), cmd); err != nil {
		return err
	}
	var exit *worker.ExitError
	_, err = crash.Call(context.Background(), w, "exit")
	if !errors.As(err, &exit) || exit.Code != 3 && exit.Code != ipc.ExitUnknown || !strings.Contains(exit.Stderr, "last words: exit") {
		return fmt.Errorf("crash: %w", err)
	}
	_ = w.Close() // says the same
	return nil
}

// odd runs an odd host and returns what it has reported.
func odd(t *testing.T, host *exec.Cmd) string {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report")
	require.NoError(t, os.WriteFile(report, nil, 0o600))
	host.Args = append(host.Args, report)
	var out bytes.Buffer
	host.Stdout, host.Stderr = &out, &out
	_ = host.Run() // it reports itself
	b, err := os.ReadFile(report)
	require.NoError(t, err)
	if len(b) == 0 {
		return "no report: " + out.String()
	}
	return string(b)
}

// Whatever a host is like, its workers work.
func TestOddHosts(t *testing.T) {
	program := link(t, oddHost)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for way := range oddities {
			require.Equal(t, "fine", odd(t, exec.Command(program, s.name, way)), way)
		}
	})
}

// And whatever started the host.
func TestHostsOfOddParents(t *testing.T) {
	program := link(t, oddHost)
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, script := range []string{
			`exec "$@" 0<&- 1>&- 2>&-`,
			`exec "$@" 0</dev/null 1>/dev/full 2>/dev/full`,
			`trap '' PIPE TERM HUP INT QUIT CHLD USR1; exec "$@"`,
			`cd /; exec "$@"`,
			`exec env -i "$@"`,
			`exec setsid -w "$@"`,
			`"$@" & wait $!`,
			`exec "$@" 3</dev/null 4</dev/null 5</dev/null 9</dev/null`,
			`ulimit -c 0; ulimit -n 64; umask 0777; exec "$@"`,
		} {
			require.Equal(t, "fine", odd(t, exec.Command("/bin/sh", "-c", script, "sh", program, s.name, "as it is")), script)
		}
	})
	// The host is process 1, and so it has nobody above it.
	eachNamespace(t, func(t *testing.T, n namespace) {
		for _, s := range spawners {
			for way := range oddities {
				host := exec.Command(program, s.name, way)
				n.enter(host)
				require.Equal(t, "fine", odd(t, host), "%s %s", s.name, way)
			}
		}
	})
}

// doomedHost is the name of a host that is to be killed. Its arguments are the driver,
// how it starts its worker, and the file of the test worker. It writes the worker's id, as the worker knows it.
const doomedHost = "test-doomed-host"

func init() { programs[doomedHost] = beDoomedHost }

// starts are odd ways to start a worker.
var starts = map[string]func() *exec.Cmd{
	"leads a session": func() *exec.Cmd {
		cmd := worker.Self("test")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	},
	"is in a group of others": func() *exec.Cmd { return inShell(`"$0" & wait $!`) },
	"has a wrapper that does not end": func() *exec.Cmd {
		return inShell(`trap '' TERM HUP INT; "$0"; exit $?`)
	},
	"leads a session, with a wrapper": func() *exec.Cmd { return inShell(`exec setsid -w "$0"`) },
	"ignores signals": func() *exec.Cmd {
		return inShell(`trap '' PIPE TERM HUP INT QUIT CHLD USR1; exec "$0"`)
	},
	"gets SIGUSR1 first, and then dies of it": func() *exec.Cmd {
		cmd := worker.Self("test")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGUSR1}
		return cmd
	},
	"gets a signal that it ignores": func() *exec.Cmd {
		cmd := inShell(`trap '' HUP; exec "$0"`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGHUP}
		return cmd
	},
}

// inShell returns the command of a doomed host for a script in which $0 is the test worker.
func inShell(script string) *exec.Cmd {
	return exec.Command("/bin/sh", "-c", script, os.Args[3])
}

func beDoomedHost() error {
	for _, s := range spawners {
		if s.name == os.Args[1] {
			w, err := s.spawn(context.Background(), starts[os.Args[2]]())
			if err != nil {
				return err
			}
			said, err := pid.Call(context.Background(), w, 0)
			if err != nil {
				return err
			}
			fmt.Println(said.PID, w.PID())
			forever()
		}
	}
	return fmt.Errorf("no driver %s", os.Args[1])
}

// However a worker was started it ends with its host, and so does what started it.
func TestHostOfOddWorkerIsKilled(t *testing.T) {
	for start := range starts {
		t.Run(start, func(t *testing.T) {
			eachPlainDriver(t, func(t *testing.T, s spawner) {
				host := exec.Command(link(t, doomedHost), s.name, start, link(t, testProgram))
				out, err := host.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, host.Start())
				var ids [2]int
				_, err = fmt.Fscan(out, &ids[0], &ids[1])
				require.NoError(t, err)
				require.NoError(t, host.Process.Kill())
				_ = host.Wait()
				for _, id := range ids {
					eventually(t, "it has ended", func() bool { return gone(id) || state(id) == "Z" })
				}
			})
		})
	}
}

// attributes are settings of a command that make the worker's process odd.
var attributes = map[string]syscall.SysProcAttr{
	"leads a session":                {Setsid: true},
	"leads a group":                  {Setpgid: true},
	"gets SIGKILL":                   {Pdeathsig: syscall.SIGKILL},
	"gets SIGUSR1":                   {Pdeathsig: syscall.SIGUSR1},
	"leads a session, gets SIGHUP":   {Setsid: true, Pdeathsig: syscall.SIGHUP},
	"is in namespaces for its files": {Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS},
	"is another user":                {Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	"is another group":               {Credential: &syscall.Credential{Gid: 65534}},
}

// A worker is started as its command says, or the error says what the system refuses.
func TestAttributesOfWorkers(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for name, attr := range attributes {
			cmd := worker.Self("test")
			cmd.SysProcAttr = &attr
			err := live(s, cmd)
			if os.Getuid() != 0 && (attr.Credential != nil || attr.Cloneflags != 0) {
				require.ErrorIs(t, err, syscall.EPERM, name)
				continue
			}
			require.NoError(t, err, name)
		}
	})
}

// terminal returns the slave of a new pseudo terminal.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this system has no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { slave.Close() })
	return slave
}

// A worker may have a terminal of its own, and a host may give its terminal to a worker.
func TestTerminals(t *testing.T) {
	program := link(t, oddHost)
	for _, s := range spawners {
		cmd := worker.Self("test")
		cmd.Stdin = terminal(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		require.NoError(t, live(s, cmd), s.name)
		for _, way := range []string{"as it is", foreground} {
			host := exec.Command(program, s.name, way)
			host.Stdin = terminal(t)
			host.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			require.Equal(t, "fine", odd(t, host), "%s %s", s.name, way)
		}
	}
}

// What the kernel refuses is an error that names the program, and leaves nothing.
func TestAttributesThatAreRefused(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for name, attr := range map[string]syscall.SysProcAttr{
			"Setctty without a session":    {Setctty: true},
			"Setctty of no terminal":       {Setctty: true, Setsid: true},
			"Noctty without a terminal":    {Noctty: true, Setsid: true},
			"Foreground without terminal":  {Foreground: true},
			"Setctty and Foreground":       {Setctty: true, Foreground: true, Setsid: true},
			"a group that is not there":    {Setpgid: true, Pgid: 1 << 29},
			"a root that is not there":     {Chroot: "/nowhere"},
			"a descriptor for the process": {PidFD: new(int)},
		} {
			cmd := worker.Self("test")
			cmd.SysProcAttr = &attr
			_, err := s.spawn(t.Context(), cmd)
			require.ErrorContains(t, err, "tandem: start worker /proc/self/exe: ", name)
		}
	})
}
