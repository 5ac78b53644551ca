//go:build linux

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A successor takes a listener over, one process after the other, while clients come all the time: none of them
// finds nobody, and none is cut off. The last one removes the file.
func TestTakeover(t *testing.T) {
	for kind, name := range names(t) {
		t.Run(kind, func(t *testing.T) {
			l, err := Listen(name, ListenOptions{})
			require.NoError(t, err)
			served := make(chan error, 1)
			go func() { served <- Serve(t.Context(), l, Gate{}, echo) }()
			old := dial(t, name)
			hello(t, old)

			stop := make(chan struct{})
			var coming sync.WaitGroup
			noMore := sync.OnceFunc(func() { close(stop); coming.Wait() })
			defer noMore()
			for range 4 {
				coming.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						conn, _, err := Dial(t.Context(), name, DialOptions{})
						if err != nil {
							t.Error(err)
							return
						}
						said := answer(conn)
						conn.Close()
						if said != "welcome" {
							t.Error(said)
							return
						}
					}
				})
			}
			succeed := func(from *Listener) *proc {
				f, err := from.File()
				require.NoError(t, err)
				cmd := helper(t, "successor", name)
				cmd.ExtraFiles = []*os.File{f}
				p := start(t, cmd)
				require.NoError(t, f.Close())
				p.expect("took over")
				return p
			}
			first := succeed(l)
			l.Keep()
			require.NoError(t, l.Close())
			_, err = Listen(name, ListenOptions{})
			require.ErrorIs(t, err, ErrServed)
			require.ErrorContains(t, err, "already served by process "+strconv.Itoa(first.Process.Pid))
			first.tell() // to start a successor of its own, and to end
			require.ElementsMatch(t, []string{"took over\n", "handed on\n"}, []string{first.says(), first.says()})
			eventually(t, "the next one is the server", func() bool {
				pid, err := serverAt(name)
				require.NoError(t, err)
				return pid != first.Process.Pid && pid != os.Getpid()
			})
			_, err = old.Write([]byte("?"))
			require.NoError(t, err)
			require.NoError(t, read(old), "who was there is still served")
			noMore()
			require.NoError(t, old.Close())
			require.NoError(t, <-served)
			first.end()
			if kind != "abstract" {
				require.NoFileExists(t, l.Path())
			}
			_, _, err = Dial(t.Context(), name, DialOptions{})
			require.ErrorIs(t, err, ErrNotServed)
		})
	}
}

func init() {
	// successor NAME: takes over the listener that it has inherited, serves, and hands it on to a successor
	// when it is told.
	helpers["successor"] = func(args []string) error {
		f := os.NewFile(3, "inherited")
		unix.CloseOnExec(3)
		l, err := FromFile(f, args[0])
		if err != nil {
			return err
		}
		f.Close()
		done := make(chan error, 1)
		go func() { done <- Serve(context.Background(), l, Gate{}, echo) }()
		fmt.Println("took over")
		if !told() {
			return errors.Join(l.Close(), <-done)
		}
		f, err = l.File()
		if err != nil {
			return err
		}
		next := exec.Command(os.Args[0], args[0])
		next.Env = append(os.Environ(), modeEnv+"=successor")
		next.ExtraFiles, next.Stdout, next.Stderr = []*os.File{f}, os.Stdout, os.Stderr
		in, err := next.StdinPipe()
		if err != nil {
			return err
		}
		if err := next.Start(); err != nil {
			return err
		}
		f.Close()
		pid, err := serverAt(args[0])
		for err == nil && pid != next.Process.Pid {
			time.Sleep(time.Millisecond)
			pid, err = serverAt(args[0])
		}
		l.Keep()
		if err := errors.Join(err, l.Close(), <-done); err != nil {
			return err
		}
		fmt.Println("handed on")
		told()
		in.Close()
		return next.Wait()
	}
}

// Whatever is done with the copy of a listener's socket, the listener can be ended.
func TestFileLeavesTheListenerAsItIs(t *testing.T) {
	l := listen(t, socketIn(t))
	f, err := l.File()
	require.NoError(t, err)
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, Gate{}, echo) }()
	works(t, l.Path())
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.O_NONBLOCK)
	works(t, l.Path()) // after this Accept is called anew
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

// serverAt returns the process that listens at a name.
func serverAt(name string) (pid int, err error) {
	conn, peer, err := Dial(context.Background(), name, DialOptions{})
	if err == nil {
		conn.Close()
	}
	return peer.PID, err
}

// A file that is not a Unix stream socket which listens is refused, and so is a name that is not the socket's.
func TestFromFileIsChecked(t *testing.T) {
	dir := tempDir(t)
	open := func(f *os.File, err error) *os.File {
		t.Helper()
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	raw := func(domain, kind int) *os.File {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		return open(os.NewFile(uintptr(fd), "socket"), nil)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer tcp.Close()
	packets := raw(unix.AF_UNIX, unix.SOCK_SEQPACKET)
	require.NoError(t, unix.Bind(int(packets.Fd()), &unix.SockaddrUnix{Name: dir + "/packets"}))
	require.NoError(t, unix.Listen(int(packets.Fd()), 1))
	l, other := listen(t, dir+"/s"), listen(t, dir+"/other")
	conn := dial(t, l.Path())
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	closed := open(os.Open(os.DevNull))
	closed.Close()
	for name, f := range map[string]*os.File{
		"a file": open(os.Create(dir + "/file")), "a directory": open(os.Open(dir)), "a pipe": open(r, nil), "tcp": open(tcp.File()),
		"it does not listen": raw(unix.AF_UNIX, unix.SOCK_STREAM), "datagrams": raw(unix.AF_UNIX, unix.SOCK_DGRAM), "packets": packets,
		"a connection": open(conn.File()), "it is closed": closed,
	} {
		_, err := FromFile(f, "")
		require.ErrorIs(t, err, ErrNotSocket, name)
	}
	f := open(l.File())
	touch(t, dir+"/precious")
	dead(t, dir+"/dead")
	for name, want := range map[string]error{
		dir + "/other": ErrServed, dir + "/precious": ErrNotAllowed, dir + "/none": os.ErrNotExist, dir + "/dead": ErrNotServed, "": nil, dir + "/s": nil,
		"a b": ErrBadName,
	} {
		next, err := FromFile(f, name)
		if want != nil {
			require.ErrorIs(t, err, want, name)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, l.Path(), next.Path())
		serveEcho(t, next, Gate{})
		works(t, l.Path())
		if name == "" {
			require.NoError(t, next.Close())
			require.FileExists(t, l.Path(), "nobody has said where it is")
		} else {
			t.Cleanup(func() { require.NoError(t, next.Close()) })
		}
	}
	require.Equal(t, dir+"/other", other.Path())
}

// A service manager passes sockets by name and number. Each is taken once; nothing of it is passed on.
func TestActivation(t *testing.T) {
	dir := tempDir(t)
	file := func(name string) *os.File {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		require.NoError(t, err)
		l.SetUnlinkOnClose(false)
		defer l.Close()
		f, err := l.File()
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	a, b := file("a"), file("b")
	for name, c := range map[string]struct {
		files []*os.File
		env   string // LISTEN_FDNAMES, and others; $$ is the process
		which string
		want  string
	}{
		"the only one":        {[]*os.File{a}, "LISTEN_PID=$$ LISTEN_FDS=1", "", "/a"},
		"the only one again":  {[]*os.File{a}, "LISTEN_PID=$$ LISTEN_FDS=1", " ", "/a none"},
		"by name":             {[]*os.File{a, b}, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=x:y", "y x y", "/b /a none"},
		"by number":           {[]*os.File{a, b}, "LISTEN_PID=$$ LISTEN_FDS=2", "1 0 2 -1", "/b /a none none"},
		"which of them":       {[]*os.File{a, b}, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=x:x", "x 0 x", "none /a /b"},
		"a name like a digit": {[]*os.File{a, b}, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=1:0", "0 1", "/b /a"},
		"fewer names":         {[]*os.File{a, b}, "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=x", "unknown x", "/b /a"},
		"another process":     {[]*os.File{a}, "LISTEN_PID=1 LISTEN_FDS=1", "0", "none"},
		"no process":          {[]*os.File{a}, "LISTEN_FDS=1", "0", "none"},
		"nothing":             {[]*os.File{a}, "X=1", "0", "none"},
		"no number":           {[]*os.File{a}, "LISTEN_PID=$$ LISTEN_FDS=x", "0", "none"},
		"too many":            {[]*os.File{a}, "LISTEN_PID=$$ LISTEN_FDS=99", "0", "/a"},
		"negative":            {[]*os.File{a}, "LISTEN_PID=$$ LISTEN_FDS=-1", "0", "none"},
		"something else":      {[]*os.File{null, b}, "LISTEN_PID=$$ LISTEN_FDS=2", "0 1", "odd /b"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := helper(t, "activated")
			cmd.Args = append([]string{"sh", "-c", c.env + ` exec "$0" "$@"`, cmd.Path}, strings.Split(c.which, " ")...)
			cmd.Path = "/bin/sh"
			cmd.ExtraFiles = c.files
			out, err := cmd.Output()
			require.NoError(t, err)
			want := strings.ReplaceAll(c.want, "/", dir+"/")
			require.Equal(t, want+"\n", string(out))
			require.FileExists(t, dir+"/a")
			require.FileExists(t, dir+"/b")
		})
	}
}

func init() {
	// activated WHICH...: takes these sockets, serves one client of each, and says what came of it.
	helpers["activated"] = func(which []string) error {
		var said []string
		for _, w := range which {
			l, err := Activated(w)
			switch {
			case errors.Is(err, ErrNotPassed):
				said = append(said, "none")
				continue
			case errors.Is(err, ErrNotSocket):
				said = append(said, "odd")
				continue
			case err != nil:
				return err
			}
			said = append(said, l.Path())
			done := make(chan error, 1)
			go func() { done <- Serve(context.Background(), l, Gate{}, echo) }()
			// The client sees this process, though another one has opened the socket.
			conn, peer, err := Dial(context.Background(), l.Path(), DialOptions{})
			if err != nil {
				return err
			}
			if got := answer(conn); got != "welcome" || peer.PID != os.Getpid() {
				return fmt.Errorf("%s, served by process %d", got, peer.PID)
			}
			conn.Close()
			if err := errors.Join(l.Close(), <-done); err != nil {
				return err
			}
		}
		for _, e := range os.Environ() {
			if strings.HasPrefix(e, "LISTEN_") {
				return fmt.Errorf("the environment has %s", e)
			}
		}
		for i, f := range activated.files {
			if f == nil {
				continue
			}
			if flags, err := unix.FcntlInt(uintptr(firstInherited+i), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				return fmt.Errorf("descriptor %d has flags %d, %v", firstInherited+i, flags, err)
			}
		}
		fmt.Println(strings.Join(said, " "))
		return nil
	}
}
