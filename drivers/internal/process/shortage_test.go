//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Of all error numbers, those of a lack are shortages, and no others.
func TestShortage(t *testing.T) {
	resources := map[syscall.Errno]string{
		syscall.EMFILE: "open files", syscall.ENFILE: "open files of the whole system", syscall.ETOOMANYREFS: "open files on their way to other processes",
		syscall.ENOMEM: "memory", syscall.ENOBUFS: "memory for sockets", syscall.ENOSPC: "space",
		syscall.EDQUOT: "space within the user's quota", syscall.EFBIG: "space within the largest file",
	}
	for errno := syscall.Errno(1); errno <= unix.EHWPOISON; errno++ {
		err := fmt.Errorf("in context: %w", os.NewSyscallError("call", errno))
		var short *ipc.ExhaustedError
		resource, want := resources[errno]
		require.Equal(t, want, errors.As(Shortage(err), &short), "%v", errno)
		require.Equal(t, want, IsShortage(err), "%v", errno)
		if !want {
			require.Equal(t, err, Shortage(err))
			continue
		}
		require.Equal(t, resource, short.Resource)
		require.ErrorIs(t, short, errno)
		require.Equal(t, error(short), Shortage(short), "it is named once")
	}
	require.NoError(t, Shortage(nil))
	refused := &ipc.RefusedError{Code: ipc.CodeResourceExhausted}
	require.Equal(t, error(refused), Shortage(refused), "the other side's is not ours")

	// EAGAIN is a shortage where nothing would block.
	var short *ipc.ExhaustedError
	require.ErrorAs(t, Shortage(&fs.PathError{Op: "fork/exec", Path: "/x", Err: syscall.EAGAIN}), &short)
	require.Equal(t, "processes or threads", short.Resource)
	require.ErrorAs(t, Shortage(os.NewSyscallError("mmap", syscall.EAGAIN)), &short)
	require.Equal(t, "memory that may be locked", short.Resource)
	require.False(t, IsShortage(&fs.PathError{Op: "open", Path: "/x", Err: syscall.EAGAIN}))
}

func TestShortageNamesTheLimit(t *testing.T) {
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	err := Shortage(syscall.EMFILE)
	require.ErrorContains(t, err, fmt.Sprintf("RLIMIT_NOFILE is %d", files.Cur))
	for name := range map[string]bool{"RLIMIT_NOFILE": true, "RLIMIT_AS": true, "RLIMIT_FSIZE": true, "RLIMIT_NPROC": true, "RLIMIT_MEMLOCK": true} {
		if l := limit(name); l != "" {
			require.Regexp(t, "^"+name+" is [0-9]+$", l)
		}
	}
	require.Empty(t, limit("RLIMIT_NOTHING"))
}

// shortEnv makes this program take its own descriptors away.
const shortEnv = "TANDEM_TEST_SHORT"

// A process without descriptors does not take another for dead, knows when it has started
// itself or says that it cannot, and loses no output of a worker without a word.
func TestWithoutDescriptors(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), shortEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

func beShort() error {
	log, err := os.CreateTemp("", "")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	parent := os.Getppid()
	started := StartTime(parent)
	refused := make(map[string]int)
	const steps = 20
	for free := range steps {
		for what, try := range map[string]func() (func() error, error){
			"find": func() (func() error, error) {
				p, err := Find(parent, started, "")
				if err != nil {
					return nil, err
				}
				return func() error { p.Close(); return nil }, nil
			},
			"identify": func() (func() error, error) {
				self.known = false
				return func() error {
					if h := Hello(drivers.Hello{}, "", 0); h.StartTime == 0 || h.StartTime != StartTime(os.Getpid()) {
						return fmt.Errorf("this process is said to have started at %d", h.StartTime)
					}
					return nil
				}, Identify()
			},
			"output": func() (func() error, error) {
				cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "echo said >&2"}, Stderr: log}
				p, conn, err := Spawn(context.Background(), &drivers.Command{Cmd: cmd}, Options{}, func(*net.UnixConn) error { return nil })
				if err != nil {
					return nil, err
				}
				return func() error {
					<-p.Copied()
					conn.Close()
					b := make([]byte, 100)
					n, _ := log.ReadAt(b, 0)
					if string(b[:n]) != "said\n" {
						return fmt.Errorf("the log has %q", b[:n])
					}
					_, err := log.Seek(0, io.SeekStart)
					return errors.Join(err, log.Truncate(0))
				}, nil
			},
		} {
			var check func() error
			var failed error
			if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(free), func() { check, failed = try() }); err != nil {
				return err
			}
			if failed == nil {
				failed = check()
			} else if errors.Is(failed, ipc.ErrExhausted) {
				refused[what]++
				failed = nil
			}
			if failed != nil {
				return fmt.Errorf("%s, with %d files: %w", what, free, failed)
			}
		}
	}
	for _, what := range []string{"find", "identify", "output"} {
		if n := refused[what]; n == 0 || n == steps {
			return fmt.Errorf("%s: %d of %d refused: the sweep has missed the border", what, n, steps)
		}
	}
	return nil
}
