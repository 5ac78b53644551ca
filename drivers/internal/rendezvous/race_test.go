//go:build linux

package rendezvous

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// Many processes begin to listen at once, at a path where one was killed before: one of them does,
// and all others say that it is served. So also if their umask takes all rights from what they
// make, and if they are not root.
func TestOneWinner(t *testing.T) {
	for _, c := range []struct {
		name  string
		uid   int
		umask string
	}{{"umask 022", os.Geteuid(), "022"}, {"umask 0777", os.Geteuid(), "0777"}, {"another user, umask 0777", nobody, "0777"}} {
		t.Run(c.name, func(t *testing.T) {
			const starters, rounds = 20, 4
			dir := openDir(t, os.Geteuid(), 0o755)
			if c.uid != os.Geteuid() {
				dir = openDir(t, c.uid, 0o755)
			}
			path := filepath.Join(dir, "s")
			for range rounds {
				var all []*proc
				for range starters {
					cmd := helper(t, "listen", c.umask, path)
					if len(all) == 0 || c.uid == os.Geteuid() {
						as(t, c.uid, cmd)
					} else {
						cmd.Path, cmd.Dir, cmd.SysProcAttr = all[0].Path, "/", all[0].SysProcAttr
					}
					all = append(all, start(t, cmd))
				}
				for _, p := range all {
					p.expect("ready")
				}
				for _, p := range all {
					p.tell()
				}
				var winner *proc
				for _, p := range all {
					switch said := p.says(); said {
					case "won\n":
						require.Nil(t, winner, "two winners")
						winner = p
					case "served\n":
						require.NoError(t, p.Wait())
					default:
						t.Fatalf("it said %q", said)
					}
				}
				require.NotNil(t, winner)
				server, err := who(path)
				require.NoError(t, err)
				require.Equal(t, winner.Process.Pid, server.PID)
				info, err := os.Lstat(path)
				require.NoError(t, err)
				require.Equal(t, os.ModeSocket|0o600, info.Mode())
				require.Equal(t, []string{"s"}, entries(t, dir), "the lock's file is gone")
				winner.kill()
				require.Equal(t, []string{"s"}, entries(t, dir), "the socket is left")
			}
			l, err := Listen(path, ListenOptions{})
			if c.uid != os.Geteuid() {
				require.ErrorIs(t, err, ErrNotAllowed, "it is another user's")
				require.NoError(t, os.Remove(path))
				return
			}
			require.NoError(t, err)
			require.NoError(t, l.Close())
			require.Empty(t, entries(t, dir))
		})
	}
}

// Goroutines of one process do not share what they take, either.
func TestOneWinnerInOneProcess(t *testing.T) {
	for kind, name := range names(t) {
		t.Run(kind, func(t *testing.T) {
			for range 20 {
				var wg sync.WaitGroup
				won := make(chan *Listener, 20)
				for range cap(won) {
					wg.Go(func() {
						l, err := Listen(name, ListenOptions{})
						if err == nil {
							won <- l
						} else if !errors.Is(err, ErrServed) {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				require.Len(t, won, 1)
				require.NoError(t, (<-won).Close())
			}
		})
	}
}

// Who finds the lock held waits for it, and gives up in the end.
func TestLockIsHeld(t *testing.T) {
	path := socketIn(t)
	hold := func() int {
		fd, err := unix.Open(path+lockSuffix, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		require.NoError(t, err)
		require.NoError(t, unix.Flock(fd, unix.LOCK_EX))
		return fd
	}
	fd := hold()
	got := make(chan *Listener, 1)
	go func() {
		l, err := Listen(path, ListenOptions{})
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	// Its holder ends as it should: it removes the file, which nobody else gets then.
	eventually(t, "it has opened the directory", func() bool { return leaktest.Descriptors()[filepath.Dir(path)] == 2 })
	require.Empty(t, got)
	require.NoFileExists(t, path)
	require.NoError(t, unix.Unlink(path+lockSuffix))
	require.NoError(t, unix.Close(fd))
	l := <-got
	require.NoError(t, l.Close())

	old := lockWait
	defer func() { lockWait = old }()
	lockWait = 20 * time.Millisecond
	fd = hold()
	_, err := Listen(path, ListenOptions{})
	require.ErrorIs(t, err, ErrServed)
	require.ErrorContains(t, err, "another process holds the lock "+path+lockSuffix)
	require.Equal(t, []string{"s.lock"}, entries(t, filepath.Dir(path)))
	// Who is killed leaves the file and no lock.
	require.NoError(t, unix.Close(fd))
	listen(t, path)
	require.Equal(t, []string{"s"}, entries(t, filepath.Dir(path)))
}

func entries(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func init() {
	// contend PATH: listens, closes, and listens again, until its input ends. While it listens, all who
	// connect reach it.
	helpers["contend"] = func(args []string) error {
		over := make(chan struct{})
		go func() {
			for told() {
			}
			close(over)
		}()
		for {
			select {
			case <-over:
				return nil
			default:
			}
			l, err := Listen(args[0], ListenOptions{})
			if errors.Is(err, ErrServed) {
				time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
				continue
			}
			if err != nil {
				return err
			}
			for range rand.IntN(5) {
				if err := reaches(args[0], l); err != nil {
					return fmt.Errorf("process %d listens at %s: %w", os.Getpid(), args[0], err)
				}
				time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
			}
			if err := reaches(args[0], l); err != nil {
				return fmt.Errorf("process %d listens at %s: %w", os.Getpid(), args[0], err)
			}
			if err := l.Close(); err != nil {
				return err
			}
			fmt.Println("served")
		}
	}
}

// reaches returns an error unless this process is reached at path, where it listens.
func reaches(path string, l *Listener) error {
	conn, peer, err := connectOnce(path)
	if err != nil {
		return fmt.Errorf("it is not reached: %w", err)
	}
	defer conn.Close()
	if peer.PID != os.Getpid() {
		return fmt.Errorf("process %d is reached", peer.PID)
	}
	c, err := l.ln.AcceptUnix()
	if err != nil {
		return err
	}
	return c.Close()
}

// Processes that listen at a path, close, and are killed at any moment: whoever listens is reached
// there all the time. In the end one can listen.
func TestContenders(t *testing.T) {
	const contenders, kills = 20, 100
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	var all [contenders]*proc
	begin := func() *proc { return start(t, helper(t, "contend", path)) }
	for i := range all {
		all[i] = begin()
	}
	for range kills {
		i := rand.IntN(contenders)
		if rand.IntN(2) == 0 {
			// This one, or any: who has served may have been about to listen again.
			if said := all[i].says(); said != "served\n" {
				t.Fatalf("a contender has ended: %v", all[i].Wait())
			}
		}
		all[i].kill()
		require.Equal(t, -1, all[i].ProcessState.ExitCode(), "it has ended before it was killed")
		all[i] = begin()
	}
	for _, p := range all {
		go func() { _, _ = p.out.WriteTo(io.Discard) }()
		p.end()
	}
	l := listen(t, path)
	server, err := who(path)
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), server.PID)
	require.NoError(t, l.Close())
	require.Empty(t, entries(t, dir), strconv.Itoa(kills)+" kills")
}
