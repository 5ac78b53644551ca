package worker_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// A namespace is a way to make a worker process 1 of a pid namespace.
type namespace struct {
	name  string
	flags uintptr
}

var namespaces = []namespace{{"pid", unix.CLONE_NEWPID}, {"user and pid", unix.CLONE_NEWPID | unix.CLONE_NEWUSER}}

// enter makes cmd run in a namespace of its own.
func (n namespace) enter(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Cloneflags = n.flags
	if n.flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
}

// eachNamespace runs a test in each kind of namespace that the system allows.
func eachNamespace(t *testing.T, test func(t *testing.T, n namespace)) {
	for _, n := range namespaces {
		t.Run(n.name, func(t *testing.T) {
			probe := exec.Command("/bin/true")
			n.enter(probe)
			if err := probe.Run(); err != nil {
				t.Skipf("this system does not allow a %s namespace here: %v", n.name, err)
			}
			test(t, n)
		})
	}
}

// namespaced returns a command for an entry of ours in a namespace of its own.
func (n namespace) self(entry string) *exec.Cmd {
	cmd := worker.Self(entry)
	n.enter(cmd)
	return cmd
}

// A worker that is process 1 of a pid namespace is a worker like any other. What it
// knows of process ids is of no use to its host.
func TestWorkerInNamespace(t *testing.T) {
	eachNamespace(t, func(t *testing.T, n namespace) {
		eachPlainDriver(t, func(t *testing.T, s spawner) {
			w, err := s.spawn(t.Context(), n.self("test"), worker.WithMaxFiles(100))
			require.NoError(t, err)
			worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
			said, err := pid.Call(t.Context(), w, 0)
			require.NoError(t, err)
			require.Equal(t, 1, said.PID)
			require.Zero(t, said.Parent)
			require.Greater(t, w.PID(), 1)
			require.False(t, gone(w.PID()))
			six, err := callback.Call(t.Context(), w, 3)
			require.NoError(t, err)
			require.Equal(t, 6, six)
			require.NoError(t, w.Close())
			require.True(t, gone(w.PID()))

			for how, code := range map[string]int{"exit": 3, "panic": 2} {
				w, err = s.spawn(t.Context(), n.self("test"))
				require.NoError(t, err)
				var exit *worker.ExitError
				_, err = crash.Call(t.Context(), w, how)
				require.ErrorAs(t, err, &exit)
				require.Equal(t, code, exit.Code)
				require.Equal(t, w.PID(), exit.PID)
				require.ErrorAs(t, w.Close(), &exit)
			}

			w, err = s.spawn(t.Context(), n.self("test"))
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGTERM))
			eventually(t, "the worker has ended", func() bool { return !w.Connected() })
			require.NoError(t, w.Close(), "it has ended in order")

			w, err = s.spawn(t.Context(), n.self("stubborn"), worker.WithGrace(50*time.Millisecond))
			require.NoError(t, err)
			var exit *worker.ExitError
			require.ErrorAs(t, w.Close(), &exit)
			require.Equal(t, syscall.SIGKILL, exit.Signal)

			_, err = s.spawn(t.Context(), n.self("exit"))
			require.ErrorAs(t, err, &exit)
			require.Equal(t, 7, exit.Code)
		})
	})
}

// Its connection comes and goes, though the host is nowhere in its namespace; and so with
// a path, where the kernel says who listens.
func TestReconnectToNamespace(t *testing.T) {
	eachNamespace(t, func(t *testing.T, n namespace) {
		for name, d := range map[string]socket.Driver{
			"handover": {}, "path": {Path: t.TempDir() + "/s"}, "detached": {Detached: true},
		} {
			t.Run(name, func(t *testing.T) {
				w, err := worker.Spawn(t.Context(), n.self("test"), d)
				require.NoError(t, err)
				for range 3 {
					require.NoError(t, w.Channel().Disconnect())
					require.NoError(t, w.Channel().Reconnect(t.Context()))
					sum, err := add.Call(t.Context(), w, pair{1, 2})
					require.NoError(t, err)
					require.Equal(t, 3, sum)
				}
				require.Equal(t, w.PID(), w.Channel().Ref().PID, "the id that it has here")
				require.NoError(t, w.Close())
			})
		}
	})
}

// A wrapper that stays outside of the namespace, as unshare does, hides the id of the worker.
func TestReconnectToHiddenWorker(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	// With a /proc of its own the worker finds the processes of its namespace there, and
	// otherwise those of the host's.
	for _, flags := range []string{"-Urpf", "-Urpfm --mount-proc"} {
		args := append(strings.Fields(flags), "--kill-child")
		if out, err := exec.Command(unshare, append(args, "true")...).CombinedOutput(); err != nil {
			t.Skipf("this system does not allow it: %v: %s", err, out)
		}
		for name, d := range map[string]socket.Driver{
			"handover": {}, "path": {Path: t.TempDir() + "/s"}, "detached": {Detached: true},
		} {
			t.Run(flags+" "+name, func(t *testing.T) {
				w, err := worker.Spawn(t.Context(), exec.Command(unshare, append(args, link(t, testProgram))...), d)
				require.NoError(t, err)
				require.NoError(t, w.Channel().Disconnect())
				require.NoError(t, w.Channel().Reconnect(t.Context()))
				said, err := pid.Call(t.Context(), w, 0)
				require.NoError(t, err)
				require.Equal(t, 1, said.PID)
				require.Zero(t, w.Channel().Ref().PID)
				if d.Detached {
					_, err = worker.Attach(t.Context(), w.Channel().Ref(), socket.Connect{})
					require.ErrorIs(t, err, socket.ErrBadRef)
					require.ErrorContains(t, err, "pid namespace")
				}
				require.NoError(t, w.Close())
			})
		}
	}
}

// Another process takes it over by the id that it has here.
func TestAttachToNamespace(t *testing.T) {
	eachNamespace(t, func(t *testing.T, n namespace) {
		w, err := worker.Spawn(t.Context(), n.self("test"), socket.Driver{Detached: true})
		require.NoError(t, err)
		ref, err := w.Channel().Detach()
		require.NoError(t, err)
		require.NoError(t, w.Close())
		text, err := ref.MarshalText()
		require.NoError(t, err)
		again, err := socket.ParseRef(string(text))
		require.NoError(t, err)
		attached, err := worker.Attach(t.Context(), again, socket.Connect{})
		require.NoError(t, err)
		require.Equal(t, w.PID(), attached.PID())
		sum, err := add.Call(t.Context(), attached, pair{1, 2})
		require.NoError(t, err)
		require.Equal(t, 3, sum)
		require.NoError(t, attached.Close())
	})
}

// namespaceHost is the name of the host of a worker in a namespace, which is to be killed.
// Its arguments are the driver, the number of the namespace, and what the worker does.
const namespaceHost = "test-namespace-host"

func init() {
	programs[namespaceHost] = beNamespaceHost
	entries["namespaced"] = beNamespaced
}

func beNamespaceHost() error {
	which, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	cmd := namespaces[which].self("namespaced")
	cmd.Args = append(cmd.Args, os.Args[3])
	cmd.Stdout = os.Stdout
	// Events say the id at once, but the host that waits for the hello says it no sooner.
	say := worker.WithEvents(func(e worker.Event) {
		if e.Kind == worker.EventStarted {
			fmt.Println(e.PID)
		}
	})
	all := append([]spawner{spawnerFor("detached", socket.Driver{Detached: true})}, spawners...)
	for _, s := range all {
		if s.name != os.Args[1] {
			continue
		}
		w, err := s.spawn(context.Background(), cmd, say)
		if err != nil {
			return err
		}
		switch os.Args[3] {
		case "handler":
			_, err = serveForever.Call(context.Background(), w, 1, ipc.WithTimeout(0))
			return err
		case "disconnected":
			if err := w.(*worker.Client[*socket.Channel]).Channel().Disconnect(); err != nil {
				return err
			}
		}
		fmt.Println("ready")
		forever()
	}
	return fmt.Errorf("no driver %s", os.Args[1])
}

func beNamespaced() error {
	s := worker.NewServer()
	switch os.Args[1] {
	case "mute":
		fmt.Println("ready")
		forever()
	case "stubborn and mute":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		forever()
	case "handler":
		worker.Handle(s, serveForever, func(context.Context, int) (int, error) {
			fmt.Println("ready")
			forever()
			return 0, nil
		})
	case "main hangs":
		defer forever()
	}
	return s.Serve(context.Background())
}

// Process 1 of a pid namespace cannot end itself by a signal. It ends with its host all
// the same.
func TestHostOfNamespaceIsKilled(t *testing.T) {
	program := link(t, namespaceHost)
	for which, n := range namespaces {
		for _, driver := range []string{"shm", "socket", "detached"} {
			for _, scene := range []string{"mute", "stubborn and mute", "idle", "handler", "main hangs", "disconnected"} {
				if driver == "shm" && scene == "disconnected" || driver == "detached" && scene != "idle" && scene != "disconnected" {
					continue // a detached worker is told by its connection, and ends as it likes
				}
				t.Run(strings.Join([]string{n.name, driver, scene}, " "), func(t *testing.T) {
					probe := exec.Command("/bin/true")
					n.enter(probe)
					if err := probe.Run(); err != nil {
						t.Skipf("this system does not allow a %s namespace here: %v", n.name, err)
					}
					t.Parallel()
					host := exec.Command(program, driver, strconv.Itoa(which), scene)
					out, err := host.StdoutPipe()
					require.NoError(t, err)
					require.NoError(t, host.Start())
					worker, ready := 0, false
					for lines := bufio.NewScanner(out); (worker == 0 || !ready) && lines.Scan(); {
						if lines.Text() == "ready" {
							ready = true
						} else if id, err := strconv.Atoi(lines.Text()); err == nil {
							worker = id
						}
					}
					require.True(t, ready && worker > 0, "host or worker has ended")
					require.NotEmpty(t, groupOf(worker))
					require.NoError(t, host.Process.Kill())
					_ = host.Wait()
					eventually(t, "the worker has ended", func() bool { return len(groupOf(worker)) == 0 })
				})
			}
		}
	}
}
