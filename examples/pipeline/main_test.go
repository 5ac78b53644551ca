//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// program is the real one, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pipeline")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pipeline")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

// logs makes files of logs, plain and packed, and says how many lines they have.
func logs(t *testing.T, lines int) (dir string, total int) {
	t.Helper()
	dir = t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	text := func(ends bool) []byte {
		var b bytes.Buffer
		for range lines {
			fmt.Fprintf(&b, "key%d(x) %s\n", random.IntN(500), strings.Repeat("=", random.IntN(60)))
		}
		total += lines
		if !ends {
			b.Truncate(b.Len() - 1)
		}
		return b.Bytes()
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(text(true))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	for name, contents := range map[string][]byte{
		"a.log": text(true), "sub/b.log": text(false), "c.log.gz": packed.Bytes(), "d.log.zst": encoder.EncodeAll(text(true), nil), "empty": nil,
		"long": bytes.Repeat([]byte("x"), 3<<20), "not.gz": []byte("one line\n"),
	} {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, contents, 0o600))
	}
	return dir, total + 3 + 1 // the long line comes in three blocks
}

// children are the processes that a process has started.
func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for f := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// said is what the program says on stderr. up is closed when it says that its workers run.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
	up   chan struct{}
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := bytes.Contains(s.text.Bytes(), []byte("the workers run"))
	s.text.Write(b)
	if !before && bytes.Contains(s.text.Bytes(), []byte("the workers run")) {
		close(s.up)
	}
	return len(b), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

var (
	runs  = flag.Int("runs", 1, "how often TestKilledAndStoppedAtAnyTime runs the program with each driver")
	kills = flag.Float64("kills", 60, "how many workers it kills or stops in a second")
	seed  = flag.Uint64("seed", 3, "which ones, and when")
)

// Whoever kills or stops workers, as often as they like: one process finds the same. With -runs 20 that is twenty times.
func TestKilledAndStoppedAtAnyTime(t *testing.T) {
	path, err := program()
	require.NoError(t, err)
	dir, total := logs(t, 40_000)
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			for run := range *runs {
				random := rand.New(rand.NewPCG(*seed, uint64(run)))
				killed, stopped := 0, 0
				for try := 0; killed+stopped == 0; try++ { // on a busy machine the program may be quicker
					require.Less(t, try, 10)
					killed, stopped = harass(t, path, driver, dir, total, random)
				}
				t.Logf("run %d: %d killed, %d stopped", run, killed, stopped)
			}
		})
	}
}

// mostHarm is how many workers are killed or stopped at most: where it takes longer to start one than until the next is killed, a program gets nowhere.
const mostHarm = 200

// harass runs the program, and kills and stops its workers until it ends.
func harass(t *testing.T, path, driver, dir string, total int, random *rand.Rand) (killed, stopped int) {
	t.Helper()
	cmd := exec.Command(path, "-driver", driver, "-verify", dir)
	var stdout bytes.Buffer
	stderr := &said{up: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-stderr.up:
	case err := <-ended:
		require.NoError(t, err, stderr.String())
	}
	hang := time.After(3 * time.Minute)
	for over := false; !over; {
		select {
		case err := <-ended:
			require.NoError(t, err, stderr.String())
			over = true
		case <-hang:
			_ = cmd.Process.Signal(syscall.SIGQUIT)
			<-ended
			t.Fatal("it hangs: " + stderr.String())
		case <-time.After(time.Duration(2 * random.Float64() * float64(time.Second) / *kills)):
			pids := children(cmd.Process.Pid)
			if len(pids) == 0 || killed+stopped == mostHarm {
				break
			}
			sig := syscall.SIGKILL
			if stopped < 3 && random.IntN(10) == 0 {
				sig = syscall.SIGSTOP
			}
			if syscall.Kill(pids[random.IntN(len(pids))], sig) != nil {
				break
			}
			if sig == syscall.SIGSTOP {
				stopped++
			} else {
				killed++
			}
		}
	}
	require.Contains(t, stdout.String(), "verified")
	require.Contains(t, stdout.String(), fmt.Sprintf("7 files, %d lines,", total))
	return killed, stopped
}

// Ctrl-C ends it when what was read is through, and no worker is left.
func TestInterrupted(t *testing.T) {
	path, err := program()
	require.NoError(t, err)
	dir, _ := logs(t, 100_000)
	cmd := exec.Command(path, dir)
	stderr := &said{up: make(chan struct{})}
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	<-stderr.up
	workers := children(cmd.Process.Pid)
	require.Len(t, workers, 6)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	require.Contains(t, []int{0, 130}, cmd.ProcessState.ExitCode(), stderr.String()) // 0 if it was that quick
	for _, pid := range workers {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	}
}

// Of plain files it knows about how many blocks they have, so that it can say how long it will take; of packed ones it does not.
func TestCountBlocks(t *testing.T) {
	dir, _ := logs(t, 20_000)
	files, err := find(t.Context(), []string{dir})
	require.NoError(t, err)
	require.Zero(t, countBlocks(files))
	plain := []string{filepath.Join(dir, "a.log"), filepath.Join(dir, "sub/b.log"), filepath.Join(dir, "empty")}
	have := 0
	for _, err := range blocks(plain) {
		require.NoError(t, err)
		have++
	}
	require.Greater(t, have, 10)
	require.InEpsilon(t, have, countBlocks(plain), 0.1)
	require.Zero(t, countBlocks([]string{filepath.Join(dir, "none")}))
}

func TestWrongUsage(t *testing.T) {
	path, err := program()
	require.NoError(t, err)
	for _, args := range [][]string{{"-driver", "pigeon"}, {"-workers", "0"}, {"-nothing"}} {
		cmd := exec.Command(path, args...)
		_ = cmd.Run()
		require.Equal(t, 2, cmd.ProcessState.ExitCode())
	}
	cmd := exec.Command(path, "/there/is/nothing")
	_ = cmd.Run()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
}
