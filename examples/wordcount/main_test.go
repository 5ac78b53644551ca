//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var driverNames = []string{"shm", "socket"}

// program is the real one, built once.
var program struct {
	sync.Once
	dir, path string
	err       error
}

func build(t *testing.T) string {
	t.Helper()
	program.Do(func() {
		if program.dir, program.err = os.MkdirTemp("", "wordcount"); program.err != nil {
			return
		}
		program.path = filepath.Join(program.dir, "wordcount")
		if out, err := exec.Command("go", "build", "-o", program.path, ".").CombinedOutput(); err != nil {
			program.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	require.NoError(t, program.err)
	return program.path
}

// running is a run of the program.
type running struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	tmp            string
}

func launch(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{Cmd: exec.Command(build(t), args...), tmp: t.TempDir()}
	r.Stdout, r.Stderr = &r.stdout, &r.stderr
	r.Env = append(os.Environ(), "TMPDIR="+r.tmp)
	require.NoError(t, r.Start())
	t.Cleanup(func() {
		if r.ProcessState == nil {
			_ = r.Process.Kill()
			_ = r.Wait()
		}
	})
	return r
}

// wait returns the exit status.
func (r *running) wait(t *testing.T) int {
	t.Helper()
	_ = r.Wait() // the status says more
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "files left behind")
	return r.ProcessState.ExitCode()
}

// value returns a total that the program has printed.
func (r *running) value(t *testing.T, name string) int64 {
	t.Helper()
	for line := range strings.Lines(r.stdout.String()) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			require.NoError(t, err)
			return n
		}
	}
	require.FailNow(t, "no "+name+" in", "%s", r.stdout.String())
	return 0
}

// tree makes files of all kinds, and returns them and what they hold.
func tree(t *testing.T) (dir string, files map[string][]byte) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	bytesOf := func(from, to int) (all []byte) {
		for b := from; b <= to; b++ {
			all = append(all, byte(b))
		}
		return all
	}
	text := []byte("the quick  brown fox\tjumps over the lazy dog\r\n\x00 \xc3\xa4 end.\n")
	files = map[string][]byte{
		"empty":                  nil,
		"newline":                []byte("\n"),
		"no newline":             []byte("one two\nthree"),
		"line\nbreak":            []byte("a name with a line break\n"),
		"-n":                     []byte("a name like a flag\n"),
		"nul":                    bytes.Repeat([]byte{0}, 3000),
		"bytes/all":              bytesOf(0, 255),
		"bytes/all, spaced":      bytes.Join(bytes.Split(bytesOf(0, 255), nil), []byte(" ")),
		"bytes/control":          bytesOf(0, 8),
		"bytes/high":             bytesOf(127, 255),
		"bytes/noise":            noise,
		"big/a chunk":            bytes.Repeat([]byte("abc "), chunkSize/4),
		"big/a chunk and a byte": append(bytes.Repeat([]byte("abc "), chunkSize/4), 'd'),
		"big/two chunks":         bytes.Repeat([]byte("x"), 2*chunkSize),
		"big/one word":           bytes.Repeat([]byte("word"), 6<<18),
		"big/one nonword":        bytes.Repeat([]byte{0xff}, 5<<20),
		"big/huge":               bytes.Repeat(text, 24<<20/len(text)),
	}
	dir = t.TempDir()
	for name, content := range files {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, content, 0o600))
	}
	require.NoError(t, os.Symlink("huge", filepath.Join(dir, "big", "link")))
	require.NoError(t, os.Symlink(".", filepath.Join(dir, "round")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	return dir, files
}

// wc asks the real one for the totals of the regular files in dir.
func wc(t *testing.T, dir string) (totals Totals, ok bool) {
	t.Helper()
	path, err := exec.LookPath("wc")
	if err != nil {
		return totals, false
	}
	run := func(stdin string, args ...string) string {
		c := exec.Command(path, args...)
		c.Env, c.Stdin, c.Stderr = append(os.Environ(), "LC_ALL=C"), strings.NewReader(stdin), os.Stderr
		out, err := c.Output()
		require.NoError(t, err)
		return string(out)
	}
	// See Totals: not all versions agree on these two.
	if strings.TrimSpace(run("\x01 \xff", "-w")) != "0" {
		t.Log("this wc has another idea of words in binary files: not compared")
		return totals, false
	}
	args := []string{"-l", "-w", "-c"}
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if d.Type().IsRegular() {
			args = append(args, name)
		}
		return err
	}))
	out := strings.TrimSpace(run("", args...))
	_, err = fmt.Sscan(out[strings.LastIndexByte(out, '\n')+1:], &totals.Lines, &totals.Words, &totals.Bytes)
	require.NoError(t, err)
	return totals, true
}

func TestEqualsWC(t *testing.T) {
	dir, files := tree(t)
	var want Totals
	table := newTable()
	ranked := map[string]int64{}
	for _, content := range files {
		want.add(reference(content, ranked))
	}
	for word, n := range ranked {
		table.Add([]byte(word), n)
	}
	if totals, ok := wc(t, dir); ok {
		require.Equal(t, totals, want, "the reference is wrong")
	}
	for _, driver := range driverNames {
		for _, workers := range []string{"1", "3"} {
			t.Run(driver+"/"+workers, func(t *testing.T) {
				r := launch(t, "-driver", driver, "-workers", workers, dir)
				require.Equal(t, 0, r.wait(t), r.stderr.String())
				assert.Empty(t, r.stderr.String(), "not a terminal")
				assert.Equal(t, want, Totals{r.value(t, "lines"), r.value(t, "words"), r.value(t, "bytes")})
				assert.EqualValues(t, len(files), r.value(t, "files"))
				assert.EqualValues(t, 0, r.value(t, "unreadable"))
				lines := strings.Split(r.stdout.String(), "\n")
				top := table.Top(topWords)
				for i, e := range top {
					assert.Equal(t, fmt.Sprintf("%*d  %s", digits(top[0].Count), e.Count, show(e.Word)), lines[6+i])
				}
				for i := range len(lines) {
					if f := strings.Fields(lines[i]); len(f) > 0 && f[0] == "all" {
						assert.Equal(t, fmt.Sprint(want.Bytes), f[2])
					}
				}
			})
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	require.NoError(t, os.WriteFile(good, []byte("one two\n"), 0o600))
	bad := []string{filepath.Join(dir, "missing"), os.DevNull}
	if runtime.GOOS == "linux" {
		bad = append(bad, "/proc/self/mem") // it opens, and cannot be read at 0, even by root
	}
	if os.Geteuid() != 0 {
		secret := filepath.Join(dir, "secret")
		require.NoError(t, os.WriteFile(secret, []byte("x"), 0))
		bad = append(bad, secret)
	}
	for _, driver := range driverNames {
		r := launch(t, append([]string{"-driver", driver, good}, bad...)...)
		assert.Equal(t, 1, r.wait(t))
		assert.EqualValues(t, len(bad), r.value(t, "unreadable"))
		assert.EqualValues(t, 1, r.value(t, "files"))
		assert.EqualValues(t, 2, r.value(t, "words"))
		for _, name := range bad {
			assert.Contains(t, r.stderr.String(), name)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-driver", "pigeon"}, {"-driver", ""}, {"-workers", "0"}, {"-workers", "-3"}, {"-workers", "many"}, {"-what"}} {
		r := launch(t, append(args, os.DevNull)...)
		assert.Equal(t, 2, r.wait(t), args)
		assert.Contains(t, r.stderr.String(), "usage: wordcount")
		assert.Empty(t, r.stdout.String())
	}
}

func TestNoGo(t *testing.T) {
	r := &running{Cmd: exec.Command(build(t)), tmp: t.TempDir()}
	r.Env, r.Stderr = []string{"PATH=" + r.tmp}, &r.stderr
	require.NoError(t, r.Start())
	assert.Equal(t, 1, r.wait(t))
	assert.Contains(t, r.stderr.String(), "no PATH is given")
}

// sparse makes a file without content that takes long to count.
func sparse(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(name)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	return name
}

// stat returns the fields of /proc/PID/stat that follow the name: state, parent ...
func stat(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.Fields(after)
}

// busyWorkers waits until the program has so many workers and each has worked.
func (r *running) busyWorkers(t *testing.T, n int) (pids []int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		pids = nil
		all, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range all {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			if f := stat(pid); len(f) > 11 && f[1] == strconv.Itoa(r.Process.Pid) {
				assert.NotEqual(c, "0", f[11], "user time") // it is counting
				pids = append(pids, pid)
			}
		}
		assert.Len(c, pids, n)
	}, time.Minute, 5*time.Millisecond)
	return pids
}

func shmEntries(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/dev/shm/*tandem*")
	require.NoError(t, err)
	return names
}

// TestEnds: however a run is ended in the middle, it ends at once and nothing is left.
func TestEnds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	const workers = 3
	huge := sparse(t, 64<<30)
	for _, test := range []struct {
		name   string
		end    func(host *os.Process, worker int) error
		status int
		says   string
	}{
		{"worker killed", func(_ *os.Process, pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, 1, "(pid %d) was ended by signal killed (9)"},
		{"worker terminated", func(_ *os.Process, pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }, 1, "(pid %d)"},
		{"interrupt", func(host *os.Process, _ int) error { return host.Signal(syscall.SIGINT) }, 130, "interrupt"},
		{"terminate", func(host *os.Process, _ int) error { return host.Signal(syscall.SIGTERM) }, 143, "terminated"},
		{"host killed", func(host *os.Process, _ int) error { return host.Kill() }, -1, ""},
	} {
		for _, driver := range driverNames {
			t.Run(test.name+"/"+driver, func(t *testing.T) {
				before := shmEntries(t)
				r := launch(t, "-driver", driver, "-workers", fmt.Sprint(workers), huge)
				pids := r.busyWorkers(t, workers)
				began := time.Now()
				require.NoError(t, test.end(r.Process, pids[1]))
				assert.Equal(t, test.status, r.wait(t))
				t.Logf("ended after %v: %s", time.Since(began), r.stderr.String())
				assert.Less(t, time.Since(began), time.Minute, "long before it has read everything")
				assert.Empty(t, r.stdout.String())
				if says := test.says; says != "" {
					if strings.Contains(says, "%d") {
						says = fmt.Sprintf(says, pids[1])
					}
					assert.Contains(t, r.stderr.String(), says)
				}
				gone := func() bool {
					return !slices.ContainsFunc(pids, func(pid int) bool { f := stat(pid); return len(f) > 0 && f[0] != "Z" })
				}
				if test.status < 0 { // nobody was left to wait for them
					assert.Eventually(t, gone, time.Minute, 5*time.Millisecond)
				}
				assert.True(t, gone(), "workers left behind")
				assert.ElementsMatch(t, before, shmEntries(t))
			})
		}
	}
}
