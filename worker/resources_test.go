//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// mirror tells what a worker's process is like.
var mirror = ipc.NewMethod[string, reflection]("test.mirror")

type reflection struct {
	Memory, Files, Core unix.Rlimit
	MemoryLimit         int64 // of Go
	CPUs, Procs         int
	Args                []string
	Executable, Dir     string
	Env                 string // the variable that was asked for
	Extra               []string
	Leader              bool // of a session
	Data                string
	Descriptors         []string
}

// eat makes a worker use up its memory.
var eat = ipc.NewMethod[int, int]("test.eat")

func init() { entries["mirror"] = beMirror }

func beMirror() error {
	s := worker.NewServer()
	worker.Handle(s, mirror, func(_ context.Context, variable string) (reflection, error) {
		var r reflection
		for resource, l := range map[int]*unix.Rlimit{unix.RLIMIT_DATA: &r.Memory, unix.RLIMIT_NOFILE: &r.Files, unix.RLIMIT_CORE: &r.Core} {
			if err := unix.Getrlimit(resource, l); err != nil {
				return r, err
			}
		}
		r.MemoryLimit = debug.SetMemoryLimit(-1)
		var cpus unix.CPUSet
		if err := unix.SchedGetaffinity(os.Getpid(), &cpus); err != nil {
			return r, err
		}
		r.CPUs, r.Procs = cpus.Count(), runtime.GOMAXPROCS(0)
		r.Args = os.Args
		r.Executable, _ = os.Executable()
		r.Dir, _ = os.Getwd()
		r.Env = os.Getenv(variable)
		for fd := 3; fd < 5 && variable == "EXTRA"; fd++ {
			b, err := io.ReadAll(os.NewFile(uintptr(fd), "extra"))
			if err != nil {
				return r, err
			}
			r.Extra = append(r.Extra, string(b))
		}
		sid, _ := unix.Getsid(0)
		r.Leader = sid == os.Getpid()
		_ = drivers.Startup().Data(&r.Data)
		fds, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range fds {
			what, _ := os.Readlink("/proc/self/fd/" + fd.Name())
			r.Descriptors = append(r.Descriptors, what)
		}
		return r, nil
	})
	worker.Handle(s, eat, func(context.Context, int) (int, error) {
		var all []byte
		for len(all) < 1<<30 {
			all = append(all, bytes.Repeat([]byte{1}, 1<<20)...)
		}
		return len(all), nil
	})
	return s.Serve(context.Background())
}

// twoDrivers are the drivers with their defaults.
func twoDrivers(t *testing.T, test func(t *testing.T, s spawner)) {
	for _, s := range spawners {
		if s.name == "shm" || s.name == "socket" {
			t.Run(s.name, func(t *testing.T) { test(t, s) })
		}
	}
}

func reflect(t *testing.T, s spawner, cmd *exec.Cmd, variable string, opts ...worker.Option) reflection {
	t.Helper()
	w, err := s.spawn(t.Context(), cmd, opts...)
	require.NoError(t, err)
	defer w.Close()
	r, err := mirror.Call(t.Context(), w, variable)
	require.NoError(t, err)
	return r
}

func TestResources(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		t.Setenv("GOMEMLIMIT", "123MiB") // the host's own, which is not the worker's
		t.Setenv("GOMAXPROCS", "77")
		// The race detector alone maps more than a usual limit.
		const memory = 1 << 30
		for range 2 * runtime.NumCPU() {
			r := reflect(t, s, worker.Self("mirror"), "GOMAXPROCS", worker.WithMaxMemory(memory), worker.WithMaxCPU(1),
				worker.WithMaxFiles(40), worker.WithoutCoreDumps())
			require.EqualValues(t, memory/10*9, r.MemoryLimit)
			require.EqualValues(t, memory+(64+8*(16+2*1))<<20, r.Memory.Max)
			require.Equal(t, r.Memory.Max, r.Memory.Cur)
			require.EqualValues(t, 40, r.Files.Max, "Go's own raising of it did not get in the way")
			require.Zero(t, r.Core.Max)
			require.Equal(t, 1, r.CPUs)
			require.Equal(t, 1, r.Procs)
			require.Equal(t, "1", r.Env)
		}

		var files unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
		var cpus unix.CPUSet
		require.NoError(t, unix.SchedGetaffinity(0, &cpus))
		r := reflect(t, s, worker.Self("mirror"), "GOMAXPROCS")
		require.EqualValues(t, 123<<20, r.MemoryLimit, "without options nothing is changed")
		require.Equal(t, files.Max, r.Files.Max)
		require.Equal(t, cpus.Count(), r.CPUs, "the thread that starts workers is bound no more")
		require.Equal(t, "77", r.Env)

		cmd := worker.Self("mirror")
		cmd.Env = append(os.Environ(), "GOMEMLIMIT=77MiB", "GOMAXPROCS=3")
		r = reflect(t, s, cmd, "GOMAXPROCS", worker.WithMaxMemory(memory), worker.WithMaxCPU(1000))
		require.EqualValues(t, 77<<20, r.MemoryLimit, "the command's own environment wins")
		require.Equal(t, "3", r.Env)
		require.Equal(t, cpus.Count(), r.CPUs, "no more than there are")
	})
}

func TestMaxMemoryIsExceeded(t *testing.T) {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector ends the process in its own way")
	}
	twoDrivers(t, func(t *testing.T, s spawner) {
		cmd := worker.Self("mirror")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		w, err := s.spawn(t.Context(), cmd, worker.WithMaxMemory(32<<20), worker.WithMaxCPU(1))
		require.NoError(t, err)
		defer w.Close()
		_, err = eat.Call(t.Context(), w, 0)
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 2, exit.Code)
		_ = w.Close() // then all is copied
		require.Regexp(t, "out of memory|cannot allocate memory|pthread_create failed", stderr.String())
	})
}

func TestResourceOptionsPanic(t *testing.T) {
	require.PanicsWithValue(t, "tandem: WithMaxMemory(0): need a positive number", func() { worker.WithMaxMemory(0) })
	require.PanicsWithValue(t, "tandem: WithMaxCPU(-1): need a positive number", func() { worker.WithMaxCPU(-1) })
	require.PanicsWithValue(t, "tandem: WithMaxFiles(0): need a positive number", func() { worker.WithMaxFiles(0) })
	require.Panics(t, func() { worker.WithOutput(nil) })
}

// What the user's command says holds: the numbers of extra files, the environment,
// the directory, the attributes, and argument 0.
func TestCommandOfTheUser(t *testing.T) {
	twoDrivers(t, func(t *testing.T, s spawner) {
		self, err := os.Executable()
		require.NoError(t, err)
		dir, err := filepath.EvalSymlinks(t.TempDir())
		require.NoError(t, err)
		sum := checksum(t, self)
		for _, opts := range [][]worker.Option{nil, {worker.WithChecksum(sum)}} {
			cmd := worker.Self("mirror")
			cmd.Args = append(cmd.Args, "-flag")
			for _, text := range []string{"first", "second"} {
				r, w, err := os.Pipe()
				require.NoError(t, err)
				_, _ = w.WriteString(text)
				w.Close()
				defer r.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, r)
			}
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "EXTRA=yes")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			r := reflect(t, s, cmd, "EXTRA", append(opts, worker.WithData("for the worker"))...)
			require.Equal(t, []string{"first", "second"}, r.Extra)
			require.Equal(t, "yes", r.Env)
			require.Equal(t, dir, r.Dir)
			require.True(t, r.Leader)
			require.Equal(t, []string{"tandem-worker:mirror", "-flag"}, r.Args)
			require.Equal(t, "for the worker", r.Data)
			require.Equal(t, self, r.Executable)
			require.NotContains(t, r.Descriptors, self, "the program's file is closed")
			require.Len(t, cmd.ExtraFiles, 2, "the template is as it was")
		}
	})
}

func checksum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return sha256.Sum256(b)
}

// Whatever step of a start fails, nothing is left of it: no process, descriptor,
// goroutine or file.
func TestFailedStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600))
	ended := func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx, cancel
	}
	soon := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), 50*time.Millisecond)
	}
	badDir := worker.Self("test")
	badDir.Dir = filepath.Join(dir, "none")
	for _, c := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc) // nil: the test's
		cmd  *exec.Cmd
		opts []worker.Option
		as   any    // the error's type
		is   error  // in its tree
		says string // in its text
	}{
		{name: "not executable", cmd: exec.Command(plain), is: os.ErrPermission, says: plain},
		{name: "missing", cmd: exec.Command(filepath.Join(dir, "none")), is: os.ErrNotExist, says: "none"},
		{name: "not found", cmd: exec.Command("no-such-program-anywhere"), is: exec.ErrNotFound},
		{name: "bad directory", cmd: badDir, is: os.ErrNotExist, says: badDir.Dir},
		{name: "large data", cmd: worker.Self("test"), opts: []worker.Option{worker.WithData(make([]byte, 200<<10))}, says: "startup data of"},
		{name: "data that has no encoding", cmd: worker.Self("test"), opts: []worker.Option{worker.WithData(func() {})}, says: "encode the user data"},
		{name: "limit", cmd: worker.Self("mute"), opts: []worker.Option{worker.WithMaxFiles(math.MaxInt32)}, is: os.ErrPermission, says: "limit the worker's open files to 2147483647"},
		{name: "wrong checksum", cmd: worker.Self("test"), opts: []worker.Option{worker.WithChecksum([32]byte{0xab})}, as: new(*ipc.ChecksumError), says: "want ab00"},
		{name: "checksum of nothing", cmd: exec.Command(filepath.Join(dir, "none")), opts: []worker.Option{worker.WithChecksum([32]byte{})}, is: os.ErrNotExist},
		{name: "checksum of a directory", cmd: exec.Command(dir), opts: []worker.Option{worker.WithChecksum([32]byte{})}, says: "not a regular file"},
		{name: "checksum of what cannot be executed", cmd: exec.Command(plain), opts: []worker.Option{worker.WithChecksum(checksum(t, plain))}, is: os.ErrPermission, says: plain},
		{name: "context ended", ctx: ended, cmd: worker.Self("test"), is: context.Canceled},
		{name: "context ends", ctx: soon, cmd: worker.Self("mute"), is: context.DeadlineExceeded},
		{name: "mute", cmd: worker.Self("mute"), opts: []worker.Option{worker.WithStartTimeout(50 * time.Millisecond)}, as: new(*ipc.TimeoutError)},
		{name: "exits", cmd: worker.Self("exit"), as: new(*worker.ExitError), says: "no configuration found"},
		{name: "refuses", cmd: worker.Self("codec"), says: "codec mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			twoDrivers(t, func(t *testing.T, s spawner) {
				tmp, err := os.MkdirTemp("", "s")
				require.NoError(t, err)
				t.Setenv("TMPDIR", tmp)
				base := drivertest.NewBaseline()
				// An open output must not outlive the start, either.
				for _, opts := range [][]worker.Option{c.opts, append(slices.Clone(c.opts), worker.WithOutput(newCapture().log))} {
					ctx, cancel := t.Context(), func() {}
					if c.ctx != nil {
						ctx, cancel = c.ctx()
					}
					_, err = s.spawn(ctx, c.cmd, opts...)
					cancel()
					require.Error(t, err)
					require.ErrorContains(t, err, c.says)
					if c.is != nil {
						require.ErrorIs(t, err, c.is)
					}
					if c.as != nil {
						require.ErrorAs(t, err, c.as)
					}
				}
				require.Empty(t, base.Leaks())
				require.NoError(t, os.Remove(tmp), "no file is left")
			})
		})
	}
}

func TestChecksum(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	sum := checksum(t, self)
	wrong := sum
	wrong[31]++
	twoDrivers(t, func(t *testing.T, s spawner) {
		_, err := s.spawn(t.Context(), worker.Self("test"), worker.WithChecksum(wrong))
		var mismatch *ipc.ChecksumError
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, ipc.ChecksumError{Program: "tandem-worker:test", Want: wrong, Got: sum}, *mismatch)
		require.ErrorContains(t, err, fmt.Sprintf("%x", sum))

		// A path that is relative is so to the command's directory.
		cmd := &exec.Cmd{Path: "./" + filepath.Base(self), Dir: filepath.Dir(self), Args: worker.Self("test").Args}
		w, err := s.spawn(t.Context(), cmd, worker.WithChecksum(sum))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	})
}

func TestOutputOfADetachedWorker(t *testing.T) {
	_, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{Detached: true}, worker.WithOutput(newCapture().log))
	require.ErrorContains(t, err, "a detached worker may outlive its host")
	w, err := worker.Spawn(t.Context(), worker.Self("mirror"), socket.Driver{Detached: true}, worker.WithMaxFiles(50))
	require.NoError(t, err)
	r, err := mirror.Call(t.Context(), w, strconv.Itoa(0))
	require.NoError(t, err)
	require.EqualValues(t, 50, r.Files.Max)
	require.NoError(t, w.Close())
}
