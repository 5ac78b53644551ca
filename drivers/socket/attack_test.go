//go:build linux

package socket_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
)

// Another user of the machine wants to have files deleted that are not theirs,
// or at least no worker started.

// nobody is the attacker's user.
const nobody = 65534

// attackedDir makes a directory in which everybody may make files, as /tmp, that
// belongs to owner, and a directory that is not the attacker's, with a file in it.
func attackedDir(t *testing.T, owner int) (dir, victim string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start an attacker that is another user")
	}
	top, err := os.MkdirTemp("/tmp", "ts-*")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(top) })
	require.NoError(t, os.Chmod(top, 0o755))
	dir, victim = filepath.Join(top, "tmp"), filepath.Join(top, "victim")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chown(dir, owner, owner))
	require.NoError(t, os.Chmod(dir, os.ModeSticky|0o777))
	require.NoError(t, os.Mkdir(victim, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(victim, "s"), []byte("precious"), 0o640))
	return dir, victim
}

// requireUntouched checks that nobody has had a hand in the victim's directory.
func requireUntouched(t *testing.T, victim string) {
	t.Helper()
	entries, err := os.ReadDir(victim)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	b, err := os.ReadFile(filepath.Join(victim, "s"))
	require.NoError(t, err, "the library has deleted a file")
	require.Equal(t, "precious", string(b))
	info, err := os.Lstat(filepath.Join(victim, "s"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
}

// attack starts an attacker, and returns when it is at work. It ends with the test.
func attack(t *testing.T, mode, dir, victim string) {
	t.Helper()
	exe := filepath.Join(filepath.Dir(dir), "test") // where nobody can run it
	b, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, b, 0o755))
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), modeEnv+"="+mode, argEnv+"="+dir+":"+victim, "TMPDIR="+dir)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := make([]byte, 100)
	n, err := out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(said[:n]))
}

// takeNames is an attacker that watches dir, and puts a symbolic link to victim
// in the place of all that is made there, as soon as it can.
func takeNames(dir, victim string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO); err != nil {
		return err
	}
	fmt.Println("ready")
	buf := make([]byte, 64<<10)
	for n := 0; ; n++ {
		size, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		for b := buf[:size]; len(b) > unix.SizeofInotifyEvent; {
			nameLen := int(b[12]) | int(b[13])<<8 // of which the machine has the low byte first
			name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:][:nameLen], "\x00"))
			b = b[unix.SizeofInotifyEvent+nameLen:]
			if !strings.HasPrefix(name, "tandem-") {
				continue
			}
			path := filepath.Join(dir, name)
			if to, err := os.Readlink(path); err == nil && to == victim {
				continue // its own
			}
			if os.Symlink(victim, path) != nil {
				// Somebody has it. The owner of dir can move it away.
				if os.Rename(path, filepath.Join(dir, fmt.Sprint("away", n))) == nil {
					_ = os.Symlink(victim, path)
				}
			}
		}
	}
}

// swapDir is an attacker to whom dir/app belongs: now it is a directory, and now
// a symbolic link to victim.
func swapDir(dir, victim string) error {
	app, link := filepath.Join(dir, "app"), filepath.Join(dir, "link")
	if err := os.Mkdir(app, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(app, 0o777); err != nil {
		return err
	}
	if err := os.Symlink(victim, link); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, app, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
	}
}

// try starts a worker, uses it and ends it. It tells how the start went.
func try(t *testing.T, d socket.Driver) error {
	ch, err := d.Spawn(testContext(t), command(t, "echo", ""))
	if err != nil {
		return err
	}
	ch.Links(func(l drivers.Link) { require.NoError(t, l.Close()) })
	_ = ch.Process().Signal(syscall.SIGKILL)
	<-ch.Process().Done()
	return ch.Close()
}

// An attacker who watches the directory for temporary files can neither stop
// starts nor have a file deleted.
func TestAttackerTakesNames(t *testing.T) {
	dir, victim := attackedDir(t, 0)
	t.Setenv("TMPDIR", dir)
	attack(t, "take-names", dir, victim)
	for range 20 {
		require.NoError(t, try(t, socket.Driver{}))
		requireUntouched(t, victim)
		require.NoError(t, try(t, socket.Driver{Detached: true}))
		requireUntouched(t, victim)
	}
	// Failed starts remove things as well.
	for range 20 {
		_, err := socket.Driver{Detached: true}.Spawn(testContext(t), command(t, "exit", ""))
		require.ErrorContains(t, err, "exited with code 7")
		requireUntouched(t, victim)
	}
	socket.CleanUpAgain()
	require.NoError(t, try(t, socket.Driver{Detached: true}))
	requireUntouched(t, victim)
}

// The owner of the directory for temporary files can do as they like with what
// is in it, and so stop the starts of detached workers. No other file is touched.
func TestAttackerOwnsTMPDIR(t *testing.T) {
	dir, victim := attackedDir(t, nobody)
	t.Setenv("TMPDIR", dir)
	attack(t, "take-names", dir, victim)
	for range 20 {
		require.NoError(t, try(t, socket.Driver{}), "a worker without a path needs no directory")
		_ = try(t, socket.Driver{Detached: true})
		requireUntouched(t, victim)
	}
	socket.CleanUpAgain()
	_ = try(t, socket.Driver{Detached: true})
	requireUntouched(t, victim)
}

// A path that the user has chosen leads through a directory of the attacker's.
func TestAttackerSwapsTheDirectoryOfAPath(t *testing.T) {
	dir, victim := attackedDir(t, 0)
	attack(t, "swap-dir", dir, victim)
	for range 50 {
		_ = try(t, socket.Driver{Path: filepath.Join(dir, "app", "s")})
		requireUntouched(t, victim)
	}
}

// What another user has put where a worker is to listen is neither used nor removed.
func TestAttackerHasThePath(t *testing.T) {
	dir, victim := attackedDir(t, 0)
	path := filepath.Join(dir, "app.sock")
	refused := func(want string) {
		t.Helper()
		require.ErrorContains(t, try(t, socket.Driver{Path: path}), want)
		_, err := os.Lstat(path)
		require.NoError(t, err)
		requireUntouched(t, victim)
		require.NoError(t, os.Remove(path))
	}
	require.NoError(t, os.Symlink(filepath.Join(victim, "s"), path))
	require.NoError(t, os.Lchown(path, nobody, nobody))
	refused("not a socket")
	require.NoError(t, os.Symlink(filepath.Join(victim, "none"), path))
	require.NoError(t, os.Lchown(path, nobody, nobody))
	refused("not a socket")
	require.NoError(t, unix.Mkfifo(path, 0o666))
	refused("not a socket")

	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	ln.SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	require.NoError(t, os.Lchown(path, nobody, nobody))
	refused("is a socket of user 65534, expected user 0")
}

// A worker that no other process has to find makes no file, at no time.
func TestNoFileIsEverMade(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(fd)
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO)
	require.NoError(t, err)

	h := spawn(t, socket.Driver{}, "echo", "")
	require.Empty(t, h.Address())
	for range 3 {
		h.works()
		require.NoError(t, h.Disconnect())
		require.NoError(t, h.Reconnect(h.ctx))
	}
	h.works()
	require.NoError(t, h.Disconnect())
	h.kill()
	_, err = unix.Read(fd, make([]byte, 4096))
	require.ErrorIs(t, err, unix.EAGAIN, "something was made")

	require.NoError(t, try(t, socket.Driver{Detached: true}))
	n, err := unix.Read(fd, make([]byte, 4096))
	require.NoError(t, err, "this would see it")
	require.Positive(t, n)
}

// XDG_RUNTIME_DIR is used if it is the user's alone.
func TestRuntimeDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	for mode, used := range map[os.FileMode]bool{0o700: true, 0o750: false, 0o777: false} {
		require.NoError(t, os.Chmod(dir, mode))
		h := spawn(t, socket.Driver{Detached: true}, "echo", "")
		require.Equal(t, used, strings.HasPrefix(h.Address(), dir+"/"), "%v: %s", mode, h.Address())
		require.FileExists(t, h.Address())
		h.kill()
		require.NoError(t, h.Close())
		require.NoDirExists(t, filepath.Dir(h.Address()))
	}
	// A directory whose files anybody may replace is none for a socket.
	require.NoError(t, os.Chmod(dir, 0o777)) // the order of a map is random
	t.Setenv("TMPDIR", dir)
	h := spawn(t, socket.Driver{Detached: true}, "echo", "")
	require.Regexp(t, "^/tmp/tandem-", h.Address())
}

// Whatever the umask of the worker is, only its user gets to the socket, and the
// user does.
func TestUmask(t *testing.T) {
	for _, umask := range []string{"0", "022", "0777"} {
		for _, d := range []socket.Driver{{Detached: true}, {Path: filepath.Join(t.TempDir(), "s")}} {
			h := spawn(t, d, "umask", umask)
			info, err := os.Lstat(h.Address())
			require.NoError(t, err)
			require.Equal(t, os.ModeSocket|0o600, info.Mode(), umask)
			if d.Detached {
				info, err = os.Lstat(filepath.Dir(h.Address()))
				require.NoError(t, err)
				require.Equal(t, os.ModeDir|0o700, info.Mode(), umask)
			}
			require.NoError(t, h.Disconnect())
			require.NoError(t, h.Reconnect(h.ctx))
			h.works()
		}
	}
}
