//go:build linux

package worker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What the processes of these tests are told by their environment.
const (
	orphanHostEnv = "TANDEM_TEST_ORPHAN_HOST" // the driver of the host
	sceneEnv      = "TANDEM_TEST_SCENE"
	tidyEnv       = "TANDEM_TEST_TIDY" // the file that deferred code makes
)

// serveForever is a call whose handler does not heed its context.
var serveForever = ipc.NewMethod[int, int]("test.forever")

func init() {
	entries["orphan"] = beOrphan
	if name, ok := os.LookupEnv(orphanHostEnv); ok && drivers.Startup() == nil {
		beOrphanHost(name)
	}
}

// beOrphanHost is the host of a worker that will be an orphan.
func beOrphanHost(name string) {
	for _, s := range spawners {
		if s.name != name {
			continue
		}
		cmd := worker.Self("orphan")
		cmd.Stdout = os.Stdout
		w, err := s.spawn(context.Background(), cmd)
		if err == nil {
			switch os.Getenv(sceneEnv) {
			case "handler":
				_, err = serveForever.Call(context.Background(), w, 1, ipc.WithTimeout(0))
			case "disconnected":
				if _, err = serveForever.Go(context.Background(), w, 1); err == nil {
					_ = w.(*worker.Client[*socket.Channel]).Channel().Disconnect()
					forever()
				}
			default:
				fmt.Println("ready")
				forever()
			}
		}
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// beOrphan is the worker. It tells its process id and what it has got to.
func beOrphan() error {
	fmt.Println(os.Getpid())
	child := func(command string) error {
		c := exec.Command("/bin/sh", "-c", command)
		c.Stdout = os.Stdout
		return c.Start()
	}
	s := worker.NewServer()
	switch os.Getenv(sceneEnv) {
	case "mute":
		fmt.Println("ready")
		forever()
	case "stubborn and mute":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		forever()
	case "handler", "disconnected":
		worker.Handle(s, serveForever, func(context.Context, int) (int, error) {
			fmt.Println("ready")
			for n := 0; ; n++ {
			}
		})
	case "main hangs":
		defer forever()
	case "child":
		if err := child("sleep 1000"); err != nil {
			return err
		}
	case "stubborn child":
		if err := child("trap '' TERM; echo ready; sleep 1000; :"); err != nil {
			return err
		}
	}
	defer func() {
		// Soon nobody reads this any more, which must not end us.
		var err error
		for err == nil {
			_, err = fmt.Fprintln(os.Stderr, "tidying up")
		}
		if errors.Is(err, syscall.EPIPE) {
			err = os.WriteFile(os.Getenv(tidyEnv), nil, 0o600)
		}
		if err != nil {
			panic(err)
		}
	}()
	return s.Serve(context.Background())
}

// orphan starts a host and its worker, and returns the host, and the worker's id
// when the scene is set.
func orphan(t *testing.T, driver, scene, tidy, tmp string) (host *exec.Cmd, pid int) {
	host = exec.Command("/proc/self/exe")
	host.Env = append(os.Environ(), orphanHostEnv+"="+driver, sceneEnv+"="+scene, tidyEnv+"="+tidy, "TMPDIR="+tmp)
	out, err := host.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, host.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	pid, err = strconv.Atoi(lines.Text())
	require.NoError(t, err)
	ready := 1
	if scene == "stubborn child" {
		ready = 2 // its child says so, too
	}
	for range ready {
		require.True(t, lines.Scan(), "host or worker has ended")
		require.Equal(t, "ready", lines.Text())
	}
	return host, pid
}

// groupOf returns the processes of a group that have not ended.
func groupOf(pgid int) (members []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, _ := os.ReadFile(path)
		stat := string(b)
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" && f[0] != "X" {
			members = append(members, stat)
		}
	}
	return members
}

// Whatever a worker does when its host is killed, it ends, its children end, and
// nothing is left.
func TestHostIsKilled(t *testing.T) {
	for _, c := range []struct {
		scene string
		tidy  bool // deferred code runs
	}{
		{"mute", false},
		{"stubborn and mute", false},
		{"idle", true},
		{"handler", true},
		{"disconnected", true}, // and the handler runs on
		{"main hangs", true},
		{"child", true},
		{"stubborn child", true},
		{"stopped", false},
	} {
		for _, driver := range []string{"shm", "socket"} {
			if c.scene == "disconnected" && driver == "shm" {
				continue
			}
			play := func() (pid int, tidy, tmp string) {
				tmp, err := os.MkdirTemp("", "h")
				require.NoError(t, err)
				tidy = filepath.Join(t.TempDir(), "tidy")
				host, pid := orphan(t, driver, c.scene, tidy, tmp)
				if c.scene == "stopped" {
					stop(t, pid)
				}
				require.NotEmpty(t, groupOf(pid))
				require.NoError(t, host.Process.Kill())
				_ = host.Wait()
				if c.scene == "stopped" {
					// Nobody but the kernel can end it before it goes on.
					_ = syscall.Kill(pid, syscall.SIGCONT)
				}
				return pid, tidy, tmp
			}
			pid, tidy, tmp := play()
			// All of them have their second to end at the same time.
			defer t.Run(c.scene+" "+driver, func(t *testing.T) {
				for tries := 1; ; tries++ {
					eventually(t, "the worker and its children have ended", func() bool { return len(groupOf(pid)) == 0 })
					require.NoError(t, os.Remove(tmp), "nothing is left there")
					if _, err := os.Stat(tidy); !c.tidy || err == nil {
						break
					}
					require.Less(t, tries, 4, "deferred code has not run") // a second may be too short on a busy machine, but not each time
					pid, tidy, tmp = play()
				}
			})
		}
	}
}
