//go:build linux

package process

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// TestMain makes this program a worker that answers a byte on its control
// socket with a line about itself.
func TestMain(m *testing.M) {
	if os.Getenv(shortEnv) != "" {
		if err := beShort(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if s := drivers.Startup(); s != nil {
		control, err := Control(s)
		if err != nil {
			panic(err)
		}
		var b [1]byte
		if _, err := io.ReadFull(control, b[:]); err != nil {
			os.Exit(9)
		}
		if c, ok := crashes[b[0]]; ok {
			c.crash()
		}
		switch b[0] {
		case 'f': // the user's file, at the number that os/exec promises
			_, _ = io.Copy(control, os.NewFile(3, "extra"))
		case 'g':
			_, _ = io.WriteString(control, strings.Join([]string{os.Getenv("USERS"), cwd(), group()}, " "))
		case 's':
			_, _ = io.WriteString(os.Stderr, strings.Repeat("x", 2*tailSize)+"end")
			_, _ = io.WriteString(os.Stdout, "to stdout")
			os.Exit(5)
		case 'k':
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case 'c': // a child that holds stderr open
			c := exec.Command("/bin/sleep", "60")
			c.Stderr = os.Stderr
			if c.Start() != nil {
				os.Exit(8)
			}
			_, _ = io.WriteString(control, "started")
			_, _ = control.Read(b[:])
		case 't':
			_, _ = io.WriteString(control, "x")
			_, _ = control.Read(b[:])
		}
		os.Exit(0)
	}
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

func cwd() string {
	d, _ := os.Getwd()
	return d
}

func group() string {
	if syscall.Getpgrp() == os.Getpid() {
		return "leader"
	}
	return "member"
}

// spawn starts this program, says word to it, and returns what it answers.
func spawn(t *testing.T, cmd *exec.Cmd, opts Options, word string) (*Process, *net.UnixConn) {
	t.Helper()
	cmd.Path, cmd.Args = "/proc/self/exe", []string{"test worker"}
	p, conn, err := Spawn(t.Context(), &drivers.Command{Cmd: cmd}, opts, func(c *net.UnixConn) error {
		_, err := c.Write([]byte(word))
		return err
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		p.Kill()
	})
	return p, conn
}

func TestFilesOfTheUser(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	_, _ = w.WriteString("from the user's file")
	w.Close()
	p, conn := spawn(t, &exec.Cmd{ExtraFiles: []*os.File{r}}, Options{}, "f")
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "from the user's file", string(b))
	<-p.Copied()
	require.Zero(t, p.Exit().Code)
}

func TestSettingsOfTheUser(t *testing.T) {
	dir := t.TempDir()
	_, conn := spawn(t, &exec.Cmd{Dir: dir, Env: []string{"USERS=own"}}, Options{}, "g")
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "own "+dir+" leader", string(b), "environment, directory, and a process group of its own")
}

// The user's own parent-death signal stays; without one it is SIGTERM.
func TestParentDeathSignal(t *testing.T) {
	for user, want := range map[syscall.Signal]syscall.Signal{0: syscall.SIGTERM, syscall.SIGUSR2: syscall.SIGUSR2} {
		p, _ := spawn(t, &exec.Cmd{SysProcAttr: &syscall.SysProcAttr{Pdeathsig: user}}, Options{}, "t")
		require.Equal(t, want, p.cmd.SysProcAttr.Pdeathsig)
	}
}

// The file that was read is the one that runs, also a script's.
func TestVerifiedFileIsWhatRuns(t *testing.T) {
	dir := t.TempDir()
	script := []byte("#!/bin/sh\necho $0 says $1\n")
	path := filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(path, script, 0o700))
	sum := sha256.Sum256(script)
	var out bytes.Buffer
	cmd := &drivers.Command{Cmd: &exec.Cmd{Path: "./program", Args: []string{"program", "hello"}, Dir: dir, Stdout: &out}, Checksum: &sum}
	given := files{cmd: cmd.Cmd}
	require.NoError(t, verify(cmd, &given))
	require.NoError(t, os.WriteFile(path+"2", []byte("#!/bin/sh\necho replaced\n"), 0o700))
	require.NoError(t, os.Rename(path+"2", path))
	require.NoError(t, cmd.Cmd.Run())
	given.close()
	require.Equal(t, "/proc/self/fd/3 says hello\n", out.String())
}

func TestExit(t *testing.T) {
	var stderr bytes.Buffer
	var stdout bytes.Buffer
	p, _ := spawn(t, &exec.Cmd{Stdout: &stdout, Stderr: &stderr, WaitDelay: time.Minute}, Options{}, "s")
	require.Nil(t, (&Process{done: make(chan struct{})}).Exit(), "nil while it runs")
	<-p.Copied()
	exit := p.Exit()
	require.Equal(t, 5, exit.Code)
	require.Nil(t, exit.Signal)
	require.Equal(t, p.PID(), exit.PID)
	require.Equal(t, "..."+strings.Repeat("x", tailSize-3)+"end", exit.Stderr, "the tail, with a mark that it is one")
	require.Equal(t, 2*tailSize+3, stderr.Len(), "the user's writer has all of it")
	require.Equal(t, "to stdout", stdout.String())
	require.ErrorIs(t, p.Signal(syscall.SIGTERM), os.ErrProcessDone)
	p.Kill() // does nothing

	p, _ = spawn(t, &exec.Cmd{}, Options{}, "k")
	<-p.Copied()
	require.Equal(t, syscall.SIGKILL, p.Exit().Signal)
	require.Equal(t, -1, p.Exit().Code)
}

// What nobody has redirected is seen where the host's own stderr is.
func TestStderrOfTheHost(t *testing.T) {
	host, err := os.CreateTemp(t.TempDir(), "stderr")
	require.NoError(t, err)
	defer host.Close()
	defer func(f *os.File) { os.Stderr = f }(os.Stderr)
	os.Stderr = host
	said := func(cmd *drivers.Command, opts Options) (stderr, inErrors string) {
		t.Helper()
		require.NoError(t, host.Truncate(0))
		_, err := host.Seek(0, io.SeekStart)
		require.NoError(t, err)
		cmd.Cmd.Path, cmd.Cmd.Args, cmd.Cmd.WaitDelay = "/proc/self/exe", []string{"test worker"}, time.Minute
		p, conn, err := Spawn(t.Context(), cmd, opts, func(c *net.UnixConn) error {
			_, err := c.Write([]byte("s"))
			return err
		})
		require.NoError(t, err)
		defer conn.Close()
		<-p.Copied()
		b, err := os.ReadFile(host.Name())
		require.NoError(t, err)
		return string(b), p.Exit().Stderr
	}
	stderr, inErrors := said(&drivers.Command{Cmd: &exec.Cmd{}}, Options{})
	require.Len(t, stderr, 2*tailSize+len("end"), "all of it")
	require.Contains(t, inErrors, "xend", "kept for errors all the same")

	stderr, inErrors = said(&drivers.Command{Cmd: &exec.Cmd{Stderr: io.Discard}}, Options{})
	require.Empty(t, stderr, "the command redirects it")
	require.Contains(t, inErrors, "xend")

	var logged bytes.Buffer
	stderr, _ = said(&drivers.Command{Cmd: &exec.Cmd{}, Output: slog.New(slog.NewTextHandler(&logged, nil))}, Options{})
	require.Empty(t, stderr, "the option redirects it")
	require.Contains(t, logged.String(), "xend")

	stderr, _ = said(&drivers.Command{Cmd: &exec.Cmd{}}, Options{Detached: true})
	require.Empty(t, stderr, "a detached worker outlives its host and what reads the host's stderr")
}

// A writer that is both stdout and stderr gets one Write at a time, as os/exec
// promises. The race detector sees it if not.
func TestOneWriterForBoth(t *testing.T) {
	var out bytes.Buffer
	p, _ := spawn(t, &exec.Cmd{Stdout: &out, Stderr: &out, WaitDelay: time.Minute}, Options{}, "s")
	<-p.Copied()
	require.Contains(t, out.String(), "to stdout")
	require.Contains(t, out.String(), "xend")
}

// A reader or writer that blocks does not keep the end of the process from being
// told, however long the copies may take; and then they are let go.
func TestStdioThatBlocks(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Hour} {
		r, w := io.Pipe() // nobody reads one of them, and nobody writes to the other
		in, out := io.Pipe()
		for name, cmd := range map[string]*exec.Cmd{
			"stdin": {Stdin: in, Stderr: io.Discard}, "stdout": {Stdout: w, Stderr: io.Discard}, "stderr": {Stderr: w},
			"all": {Stdin: in, Stdout: w, Stderr: w},
		} {
			cmd.WaitDelay = delay
			p, _ := spawn(t, cmd, Options{}, "s")
			<-p.Done()
			require.Equal(t, 5, p.Exit().Code, name)
			require.Contains(t, p.Exit().Stderr, "xend", name)
			if delay == 0 {
				<-p.Copied()
			}
			require.Equal(t, delay > 0, !isClosed(p.Copied()), name)
		}
		require.NoError(t, r.Close())
		require.NoError(t, out.Close())
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A grandchild that holds stderr open does not keep the end of its parent from
// being noticed, and a signal to the group reaches it.
func TestGrandchild(t *testing.T) {
	p, conn := spawn(t, &exec.Cmd{}, Options{}, "c")
	_, err := io.ReadFull(conn, make([]byte, len("started")))
	require.NoError(t, err)
	pgid := p.PID()
	p.Kill()
	require.Equal(t, syscall.SIGKILL, p.Exit().Signal)
	// The group's last member may take a moment to be reaped by its new parent.
	for syscall.Kill(-pgid, 0) == nil && !onlyZombies(pgid) {
	}
}

// onlyZombies reports whether no process of the group runs any more.
func onlyZombies(pgid int) bool {
	out, _ := exec.Command("/bin/sh", "-c", "cat /proc/[0-9]*/stat").Output()
	for line := range strings.Lines(string(out)) {
		_, rest, ok := strings.Cut(line, ") ")
		f := strings.Fields(rest)
		if ok && len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" {
			return false
		}
	}
	return true
}

// A descendant that holds the control socket open does not keep its end from being
// seen; what the process had sent before is read first.
func TestEndOfTheControlSocket(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command("/bin/sh", "-c", `sleep 1000 & exec "$0"`, self)
	p, conn, err := Spawn(t.Context(), &drivers.Command{Cmd: cmd}, Options{}, func(c *net.UnixConn) error {
		_, err := c.Write([]byte("g"))
		return err
	})
	require.NoError(t, err)
	defer conn.Close()
	defer func() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) }()
	<-p.Done()
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(b), "leader")
}

func TestHandshakeFails(t *testing.T) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"test worker"}}
	wrong := errors.New("wrong hello")
	var pid int
	started := func(started int) { pid = started }
	_, _, err := Spawn(t.Context(), &drivers.Command{Cmd: cmd, Started: started}, Options{}, func(*net.UnixConn) error { return wrong })
	require.ErrorIs(t, err, wrong)
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "the process has been reaped")

	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed our mind")
	_, _, err = Spawn(ctx, &drivers.Command{Cmd: &exec.Cmd{Path: "/proc/self/exe"}}, Options{}, func(c *net.UnixConn) error {
		cancel(reason)
		_, err := c.Read(make([]byte, 1))
		return err
	})
	require.ErrorIs(t, err, reason)
}

func TestDetached(t *testing.T) {
	p, conn := spawn(t, &exec.Cmd{}, Options{Detached: true}, "t")
	_, err := io.ReadFull(conn, make([]byte, 1))
	require.NoError(t, err)
	sid, err := unix.Getsid(p.PID())
	require.NoError(t, err)
	require.Equal(t, p.PID(), sid, "a session of its own")
	p2, conn2 := spawn(t, &exec.Cmd{}, Options{}, "t")
	_, err = io.ReadFull(conn2, make([]byte, 1))
	require.NoError(t, err)
	sid, err = unix.Getsid(p2.PID())
	require.NoError(t, err)
	require.NotEqual(t, p2.PID(), sid)
}

// A program that is still open for writing is tried again, for a while.
func TestBusyProgram(t *testing.T) {
	content, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "program")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	require.NoError(t, err)
	_, err = f.Write(content)
	require.NoError(t, err)
	try := func() error {
		_, conn, err := Spawn(t.Context(), &drivers.Command{Cmd: &exec.Cmd{Path: path, Args: []string{"test worker"}}}, Options{},
			func(c *net.UnixConn) error {
				_, err := c.Write([]byte("g"))
				return err
			})
		if err == nil {
			_, err = io.ReadAll(conn) // to its end
			conn.Close()
		}
		return err
	}
	require.ErrorIs(t, try(), syscall.ETXTBSY)
	defer func(d time.Duration) { busyLimit = d }(busyLimit)
	busyLimit = time.Minute
	result := make(chan error)
	go func() { result <- try() }()
	time.Sleep(20 * time.Millisecond) // most likely it has tried by then
	require.NoError(t, f.Close())
	require.NoError(t, <-result)
}

func TestStartTime(t *testing.T) {
	require.NotZero(t, StartTime(os.Getpid()))
	require.Equal(t, StartTime(os.Getpid()), StartTime(os.Getpid()))
	require.Zero(t, StartTime(1<<30))
}

// stuckHandler is a logger that blocks.
type stuckHandler struct {
	slog.Handler
	until chan struct{}
}

func (h stuckHandler) Enabled(context.Context, slog.Level) bool { <-h.until; return false }

func TestEndIsToldThoughAllElseIsStuck(t *testing.T) {
	until := make(chan struct{})
	defer close(until)
	// A grandchild holds stderr open, and the logger blocks.
	cmd := exec.Command("/bin/sh", "-c", "echo line; sleep 100 & exit 3")
	ours, theirs, err := fdpass.Socketpair(unix.SOCK_STREAM)
	require.NoError(t, err)
	defer ours.Close()
	defer theirs.Close()
	p, err := start(t.Context(), &drivers.Command{Cmd: cmd, Output: slog.New(stuckHandler{slog.DiscardHandler, until})}, false, ours, nil)
	require.NoError(t, err)
	defer func() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) }() // the grandchild
	select {
	case <-p.Copied():
		require.Equal(t, 3, p.Exit().Code)
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the process is not told")
	}
}
