package latest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring/sealed"
)

// mapped returns memory for a cell, mapped read-only, and the file that is mapped.
func mapped(t *testing.T, size int) (mem []byte, f *os.File) {
	t.Helper()
	n, err := MemorySize(size, Slots(size))
	require.NoError(t, err)
	fd, err := unix.MemfdCreate("latest", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f = os.NewFile(uintptr(fd), "latest")
	t.Cleanup(func() { f.Close() })
	require.NoError(t, f.Truncate(int64(n)))
	mem, err = unix.Mmap(fd, 0, n, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(mem) })
	return mem, f
}

// start starts a helper that gets f, and waits until it says that it has begun.
func start(t *testing.T, name string, f *os.File, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe() // ends with this process
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "begun\n", line)
	return cmd
}

// begun is the helper's end of start.
func begun() {
	fmt.Println("begun")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
}

// fail is what hammer reports to in a helper.
type fail struct{}

func (fail) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "helper: "+format+"\n", args...)
	os.Exit(1)
}

func must[T any](v T, err error) T {
	if err != nil {
		fail{}.Errorf("%v", err)
	}
	return v
}

func init() {
	// writer stores until it is killed.
	helpers["writer"] = func(args []string) {
		size := must(strconv.Atoi(args[0]))
		n := must(MemorySize(size, Slots(size)))
		mem := must(unix.Mmap(3, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
		w := must(NewWriter(mem, size, Slots(size), 0))
		begun()
		storeUntil(w, new(atomic.Bool))
	}
	// reader loads until it has seen as many versions as it is told.
	helpers["reader"] = func(args []string) {
		mem := must(sealed.Open(os.NewFile(3, "memory"), 1, 1<<30))
		r := must(NewReader(mem.Bytes()))
		begun()
		hammer(fail{}, r, must(strconv.Atoi(args[0])))
	}
}

// One process writes at full speed, others read, and so do goroutines here.
func TestReadersInProcesses(t *testing.T) {
	for _, size := range []int{8, 1000, 4096, 100_000} {
		n := versionsOf(size)
		t.Run(fmt.Sprintf("%d bytes, writer here", size), func(t *testing.T) {
			need, err := MemorySize(size, Slots(size))
			require.NoError(t, err)
			m, err := sealed.Create("latest", need)
			require.NoError(t, err)
			defer m.Close()
			w, err := NewWriter(m.Bytes(), size, Slots(size), 0)
			require.NoError(t, err)
			var stop atomic.Bool
			var writer sync.WaitGroup
			var readers [2]*exec.Cmd
			for i := range readers {
				readers[i] = start(t, "reader", m.File(), strconv.Itoa(n))
			}
			writer.Go(func() { storeUntil(w, &stop) })
			for _, cmd := range readers {
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			}
			stop.Store(true)
			writer.Wait()
		})
		t.Run(fmt.Sprintf("%d bytes, writer elsewhere", size), func(t *testing.T) {
			mem, f := mapped(t, size)
			start(t, "writer", f, strconv.Itoa(size))
			r, err := NewReader(mem)
			require.NoError(t, err)
			var readers sync.WaitGroup
			for range 2 {
				readers.Go(func() { hammer(t, r, n) })
			}
			readers.Wait()
		})
	}
}

// inside reports whether the writer has begun to store a version that it has not published.
func inside(r *Reader) bool { return atomic.LoadUint64(r.writing) != r.Version() }

// checkStill checks that loads find one value, whole, that of the last Store which is
// complete.
func checkStill(t *testing.T, r *Reader) uint64 {
	t.Helper()
	p := make([]byte, r.Size())
	latest := r.Version()
	for range 100 {
		clear(p)
		v, err := r.Load(p)
		require.NoError(t, err)
		require.Equal(t, latest, v)
		require.True(t, isWhole(p, v), "version %d is torn", v)
	}
	return latest
}

// A writer that is killed in the middle of a Store leaves the value of the Store before.
func TestWriterIsKilled(t *testing.T) {
	const size = 16 << 10
	for midway := 0; midway < 5; {
		mem, f := mapped(t, size)
		cmd := start(t, "writer", f, strconv.Itoa(size))
		r, err := NewReader(mem)
		require.NoError(t, err)
		hammer(t, r, 1+midway*10)
		require.NoError(t, cmd.Process.Kill())
		cmd.Wait()
		require.NotZero(t, checkStill(t, r))
		if inside(r) {
			midway++
		}
	}
}

// A writer that is stopped in the middle of a Store holds up no reader, and goes on when it
// is continued.
func TestWriterIsStopped(t *testing.T) {
	const size = 16 << 10
	mem, f := mapped(t, size)
	cmd := start(t, "writer", f, strconv.Itoa(size))
	r, err := NewReader(mem)
	require.NoError(t, err)
	var last uint64
	for midway := 0; midway < 5; {
		hammer(t, r, 10)
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		var status unix.WaitStatus
		_, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		require.NoError(t, err)
		require.True(t, status.Stopped())
		v := checkStill(t, r)
		require.Greater(t, v, last)
		last = v
		if inside(r) {
			midway++
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	}
}

// The maker alone counts; other processes see it.
func TestCountersInProcesses(t *testing.T) {
	n, err := CountersSize(3, false)
	require.NoError(t, err)
	m, err := sealed.Create("counters", n)
	require.NoError(t, err)
	defer m.Close()
	c, err := NewCounters(m.Bytes(), 3, false)
	require.NoError(t, err)
	cmd := start(t, "counts", m.File(), "100000")
	var stop atomic.Bool
	var counting sync.WaitGroup
	counting.Go(func() {
		for !stop.Load() {
			c.Add(1, 1)
			c.Add(0, 1)
		}
	})
	require.NoError(t, cmd.Wait())
	stop.Store(true)
	counting.Wait()
	require.Equal(t, c.Load(0), c.Load(1))
}

func init() {
	// counts reads until there are as many counts as it is told.
	helpers["counts"] = func(args []string) {
		mem := must(sealed.Open(os.NewFile(3, "memory"), 1, 1<<30))
		c := must(OpenCounters(mem.Bytes()))
		begun()
		var counts []uint64
		for end := uint64(must(strconv.Atoi(args[0]))); counts == nil || counts[0] < end; {
			counts = c.Snapshot(counts[:0])
			if counts[0] > counts[1] {
				fail{}.Errorf("%d finished of %d", counts[0], counts[1])
			}
		}
	}
}
