//go:build linux

package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// What is at a path and was not made by this package, or by another user, is neither removed nor followed.
func TestWhatIsThereIsLeft(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path, victim string)
		listen  error
		dial    error
		root    bool
	}{
		"a file":                     {func(t *testing.T, path, _ string) { touch(t, path) }, ErrNotSocket, ErrNotSocket, false},
		"a directory":                {func(t *testing.T, path, _ string) { mkdir(t, path, 0o700) }, ErrNotSocket, ErrNotSocket, false},
		"a pipe":                     {func(t *testing.T, path, _ string) { require.NoError(t, unix.Mkfifo(path, 0o600)) }, ErrNotSocket, ErrNotSocket, false},
		"a link to a file":           {func(t *testing.T, path, victim string) { link(t, victim, path) }, ErrNotSocket, ErrNotSocket, false},
		"a link to nothing":          {func(t *testing.T, path, victim string) { link(t, victim+"x", path) }, ErrNotSocket, ErrNotSocket, false},
		"a link to a live socket":    {func(t *testing.T, path, _ string) { listen(t, path+"x"); link(t, path+"x", path) }, ErrNotSocket, ErrNotSocket, false},
		"a link to a dead socket":    {func(t *testing.T, path, _ string) { dead(t, path+"x"); link(t, path+"x", path) }, ErrNotSocket, ErrNotSocket, false},
		"another's dead socket":      {func(t *testing.T, path, _ string) { dead(t, path); chown(t, path) }, ErrNotAllowed, ErrNotServed, true},
		"another's live socket":      {func(t *testing.T, path, _ string) { listen(t, path); chown(t, path) }, ErrNotAllowed, nil, true},
		"a live datagram socket":     {func(t *testing.T, path, _ string) { bound(t, path, unix.SOCK_DGRAM) }, ErrServed, ErrNotSocket, false},
		"a socket that is not ready": {func(t *testing.T, path, _ string) { bound(t, path, unix.SOCK_STREAM) }, ErrServed, context.Canceled, false},
		"the lock is a link":         {func(t *testing.T, path, victim string) { link(t, victim, path+lockSuffix) }, unix.ELOOP, ErrNotServed, false},
		"the lock is a dead link":    {func(t *testing.T, path, victim string) { link(t, victim+"x", path+lockSuffix) }, unix.ELOOP, ErrNotServed, false},
		"the lock is a directory":    {func(t *testing.T, path, _ string) { mkdir(t, path+lockSuffix, 0o700) }, unix.EISDIR, ErrNotServed, false},
		"the lock is a pipe":         {func(t *testing.T, path, _ string) { require.NoError(t, unix.Mkfifo(path+lockSuffix, 0o600)) }, text("it is no regular file"), ErrNotServed, false},
		"the lock is another's":      {func(t *testing.T, path, _ string) { touch(t, path+lockSuffix); chown(t, path+lockSuffix) }, ErrNotAllowed, ErrNotServed, true},
		"the lock is precious":       {func(t *testing.T, path, victim string) { require.NoError(t, os.Link(victim, path+lockSuffix)) }, ErrNotAllowed, ErrNotServed, false},
		"the directory is a file": {func(t *testing.T, path, _ string) {
			require.NoError(t, os.Remove(filepath.Dir(path)))
			touch(t, filepath.Dir(path))
		}, text("not a directory"), ErrNotSocket, false},
		"there is no directory": {func(t *testing.T, path, _ string) { require.NoError(t, os.Remove(filepath.Dir(path))) }, fs.ErrNotExist, ErrNotServed, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give a file to another user")
			}
			top := tempDir(t)
			victim := filepath.Join(top, "victim")
			touch(t, victim)
			mkdir(t, filepath.Join(top, "d"), 0o700)
			path := filepath.Join(top, "d", "s")
			c.prepare(t, path, victim)
			before := tree(t, top)

			_, err := Listen(path, ListenOptions{})
			if want, ok := c.listen.(text); ok {
				require.ErrorContains(t, err, string(want))
			} else {
				require.ErrorIs(t, err, c.listen)
			}
			ctx, cancel := context.WithCancel(testContext(t))
			if c.dial == context.Canceled {
				cancel()
			}
			conn, _, err := Dial(ctx, path, DialOptions{})
			cancel()
			if c.dial == nil {
				require.NoError(t, err)
				conn.Close()
			} else {
				require.ErrorIs(t, err, c.dial)
			}
			require.Equal(t, before, tree(t, top))
		})
	}
}

// text is what an error says that is no sentinel.
type text string

func (e text) Error() string { return string(e) }

// errOdd is an error that only these tests have.
var errOdd = errors.New("odd")

// tree returns what is in a directory: names, modes, owners, and what files hold.
func tree(t *testing.T, dir string) map[string]string {
	all := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		b := []byte(nil)
		if d.Type().IsRegular() {
			b, err = os.ReadFile(path)
		}
		all[path] = fmt.Sprint(st.Ino, st.Mode, st.Uid, st.Gid, string(b))
		return err
	}))
	return all
}

// dead makes a socket that no process has.
func dead(t testing.TB, path string) {
	t.Helper()
	l, err := Listen(path, ListenOptions{})
	require.NoError(t, err)
	l.Keep()
	require.NoError(t, l.Close())
	require.FileExists(t, path)
}

// bound binds a socket that does not listen.
func bound(t testing.TB, path string, kind int) int {
	t.Helper()
	fd, err := newSocket(kind)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	return fd
}

// A listener leaves what has taken the place of its file.
func TestCloseLeavesOthers(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"nothing":         func(t *testing.T, path string) {},
		"a file":          touch,
		"another socket":  func(t *testing.T, path string) { listen(t, path) },
		"its own, linked": func(t *testing.T, path string) { require.NoError(t, os.Rename(path+"x", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := socketIn(t)
			l := listen(t, path)
			if name == "its own, linked" {
				require.NoError(t, os.Link(path, path+"x"))
			}
			require.NoError(t, os.Remove(path))
			replace(t, path)
			before := tree(t, filepath.Dir(path))
			if name == "its own, linked" {
				delete(before, path)
			}
			require.NoError(t, l.Close())
			require.Equal(t, before, tree(t, filepath.Dir(path)))
		})
	}
}

// A directory that is moved away while a process listens in it is still the one in which its file is removed.
func TestCloseInADirectoryThatWasReplaced(t *testing.T) {
	top := tempDir(t)
	mkdir(t, top+"/d", 0o700)
	l := listen(t, top+"/d/s")
	require.NoError(t, os.Rename(top+"/d", top+"/e"))
	mkdir(t, top+"/d", 0o700)
	touch(t, top+"/d/s")
	require.NoError(t, l.Close())
	require.Empty(t, entries(t, top+"/e"))
	require.Equal(t, []string{"s"}, entries(t, top+"/d"))
}

// otherUser starts a helper as another user, in a place that both can reach.
func otherUser(t *testing.T, mode string, args ...string) *proc {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	return start(t, as(t, nobody, helper(t, mode, args...)))
}

// places are paths and abstract names that all users can reach.
func places(t *testing.T) map[string]string {
	return map[string]string{
		"path":     filepath.Join(openDir(t, os.Geteuid(), 0o777|fs.ModeSticky), "s"),
		"abstract": "@tandem-test-" + t.Name() + strconv.Itoa(os.Getpid()),
	}
}

// Another user's process is refused by a server, though it can connect, and learns no more than that.
func TestClientOfAnotherUser(t *testing.T) {
	for kind, name := range places(t) {
		t.Run(kind, func(t *testing.T) {
			l, err := Listen(name, ListenOptions{Mode: 0o666})
			require.NoError(t, err)
			defer l.Close()
			serveEcho(t, l, Gate{})
			p := otherUser(t, "client", name)
			p.expect("refused by the other side: " + ErrNotAllowed.Error())
			works(t, name)
			p.kill()

			closed := listen(t, name+"2")
			serveEcho(t, closed, Gate{})
			p = otherUser(t, "client", name+"2")
			if kind == "path" { // the mode keeps it out
				p.expect("not allowed")
			} else {
				p.expect("refused by the other side: " + ErrNotAllowed.Error())
			}
		})
	}
}

// There is no moment at which a process can connect that the mode keeps out, though the umask takes
// nothing away.
func TestNoMomentForOthers(t *testing.T) {
	path := places(t)["path"]
	intruder := otherUser(t, "intrude", path)
	intruder.expect("trying")
	cycle := start(t, helper(t, "cycle", path))
	intruder.expect("kept out")
	cycle.end()
}

// Another user's server is not trusted, though it has the name first.
func TestServerOfAnotherUser(t *testing.T) {
	for kind, name := range places(t) {
		t.Run(kind, func(t *testing.T) {
			p := otherUser(t, "impostor", name)
			p.expect("listening")
			_, _, err := Dial(testContext(t), name, DialOptions{})
			require.ErrorIs(t, err, ErrNotAllowed)
			require.ErrorIs(t, err, fs.ErrPermission)
			require.Equal(t, ipc.CodePermissionDenied, ipc.CodeOf(err))
			require.ErrorContains(t, err, "runs as user 65534, expected user 0")
			_, err = Listen(name, ListenOptions{})
			if kind == "path" {
				require.ErrorIs(t, err, ErrNotAllowed)
			} else {
				require.ErrorContains(t, err, "already served by process "+strconv.Itoa(p.Process.Pid))
			}
			conn, peer, err := Dial(testContext(t), name, DialOptions{Allow: func(p Peer) error {
				if p.UID != nobody {
					return errOdd
				}
				return nil
			}})
			require.NoError(t, err)
			require.Equal(t, Peer{UID: nobody, GID: nobody, PID: p.Process.Pid}, peer)
			conn.Close()
			_, _, err = Dial(testContext(t), name, DialOptions{Allow: func(p Peer) error { return errOdd }})
			require.ErrorIs(t, err, errOdd)
			require.ErrorIs(t, err, ErrNotAllowed)
			if kind == "path" {
				p.kill()
				require.NoError(t, os.Remove(name))
			}
		})
	}
}

func init() {
	// client NAME: becomes a client, says how that went, and stays until its input ends.
	helpers["client"] = func(args []string) error {
		conn, _, err := Dial(context.Background(), args[0], DialOptions{Allow: func(Peer) error { return nil }})
		if errors.Is(err, ErrNotAllowed) {
			fmt.Println("not allowed")
			return nil
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Println(answer(conn))
		told()
		return nil
	}
	// cycle PATH: listens with umask 0, and closes, until its input ends.
	helpers["cycle"] = func(args []string) error {
		unix.Umask(0)
		over := make(chan bool)
		go func() { told(); close(over) }()
		for {
			select {
			case <-over:
				return nil
			default:
			}
			l, err := Listen(args[0], ListenOptions{})
			if err != nil {
				return err
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
	}
	// intrude PATH: tries to connect until it has been kept out many times, and says whether it
	// could, or a mode that would have let it.
	helpers["intrude"] = func(args []string) error {
		fmt.Println("trying")
		for met := 0; met < 1000; {
			conn, err := net.Dial("unix", args[0])
			if err == nil {
				conn.Close()
				fmt.Println("connected")
				return nil
			}
			if errors.Is(err, fs.ErrPermission) {
				met++
			}
			// To connect takes luck that a moment like this one gives.
			if info, err := os.Lstat(args[0]); err == nil && info.Mode().Perm()&^0o600 != 0 {
				fmt.Println("the mode is", info.Mode())
				return nil
			}
		}
		fmt.Println("kept out")
		return nil
	}
	// impostor PATH: listens without this package.
	helpers["impostor"] = func(args []string) error {
		unix.Umask(0)
		l, err := net.Listen("unix", args[0])
		if err != nil {
			return err
		}
		fmt.Println("listening")
		for {
			if _, err := l.Accept(); err != nil {
				return err
			}
		}
	}
}

// answer says hello to echo and returns what comes of it.
func answer(conn net.Conn) string {
	_, _ = conn.Write([]byte{'?'}) // to which a server that refuses does not listen
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return err.Error()
	}
	if first[0] == '!' {
		return "welcome"
	}
	return refusal(first, conn)
}

// refusal reads a refusal of which the first byte was read.
func refusal(first []byte, conn net.Conn) string {
	_, err := drivers.ReadHello(io.MultiReader(bytes.NewReader(first), conn))
	var refused *ipc.RefusedError
	if !errors.As(err, &refused) {
		return fmt.Sprint("odd: ", err)
	}
	if errors.Is(err, ipc.ErrExhausted) {
		return "full: " + refused.Reason
	}
	return "refused by the other side: " + refused.Reason
}
