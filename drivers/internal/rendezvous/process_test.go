//go:build linux

package rendezvous

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// proc is a helper that runs. Helpers say a line when they have got somewhere, and go on when they are
// told a line.
type proc struct {
	*exec.Cmd
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a helper, which is killed when the test ends.
func start(t testing.TB, cmd *exec.Cmd) *proc {
	t.Helper()
	p := &proc{Cmd: cmd, t: t}
	var err error
	p.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	t.Cleanup(p.kill)
	return p
}

// says returns the next line of the process, "" if it has ended.
func (p *proc) says() string {
	line, _ := p.out.ReadString('\n')
	return line
}

// expect waits for a line.
func (p *proc) expect(want string) {
	p.t.Helper()
	require.Equal(p.t, want+"\n", p.says())
}

// tell makes the process go on.
func (p *proc) tell() {
	p.t.Helper()
	_, err := p.in.Write([]byte{'\n'})
	require.NoError(p.t, err)
}

// kill kills the process and waits until nothing of it is left.
func (p *proc) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

// end ends the input of the process, and expects it to end well.
func (p *proc) end() {
	p.t.Helper()
	require.NoError(p.t, p.in.Close())
	require.NoError(p.t, p.Wait())
}

// told waits, in a helper, until it is told to go on, and reports whether it was.
func told() bool {
	n, _ := os.Stdin.Read(make([]byte, 1))
	return n == 1
}

// openDir returns a new directory that all users can enter and that belongs to uid.
func openDir(t testing.TB, uid int, mode os.FileMode) string {
	t.Helper()
	if uid != os.Geteuid() && os.Geteuid() != 0 {
		t.Skip("only root can give a directory to another user")
	}
	dir, err := os.MkdirTemp("/tmp", "rendezvous")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, mode))
	if uid != os.Geteuid() {
		require.NoError(t, os.Chown(dir, uid, uid))
	}
	return dir
}

// as makes a command run as another user.
func as(t testing.TB, uid int, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if uid == os.Geteuid() {
		return cmd
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	dir := openDir(t, 0, 0o755)
	exe := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, b, 0o755))
	cmd.Path, cmd.Dir = exe, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return cmd
}

func init() {
	// listen UMASK NAME: listens when it is told, and serves until its input ends.
	helpers["listen"] = func(args []string) error {
		umask, err := strconv.ParseInt(args[0], 8, 0)
		if err != nil {
			return err
		}
		unix.Umask(int(umask))
		fmt.Println("ready")
		if !told() {
			return nil
		}
		l, err := Listen(args[1], ListenOptions{})
		if errors.Is(err, ErrServed) {
			fmt.Println("served")
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println("won")
		told()
		return l.Close()
	}
}
