package leaktest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// Baseline is what a process holds at one moment.
type Baseline struct {
	goroutines goleak.Option
	fds        map[string]int // by what they refer to
	shm        map[string]bool
	mapped     int // areas of shared memory
	// patience bounds how long things that are on their way out may take.
	patience time.Duration
}

// NewBaseline looks at what this process holds now.
func NewBaseline() *Baseline {
	// The runtime opens the descriptors of its poller when it first needs them.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	return &Baseline{goroutines: goleak.IgnoreCurrent(), fds: Descriptors(), shm: entries("/dev/shm"), mapped: mapped(), patience: 10 * time.Second}
}

// Leaks returns a line for each thing that this process holds beyond the
// baseline: goroutines, descriptors, child processes, files in /dev/shm whose names begin
// with tandem, and mappings of
// memory that has a descriptor and no name.
// Things that are on their way out get ten seconds for it. Options tell
// which goroutines are meant to stay.
func (b *Baseline) Leaks(ignore ...goleak.Option) []string {
	deadline := time.Now().Add(b.patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		leaks, late := b.find(), time.Now().After(deadline)
		if len(leaks) == 0 || late { // goleak waits by itself, for half a second
			if err := goleak.Find(append([]goleak.Option{b.goroutines}, ignore...)...); err != nil {
				leaks = append(leaks, err.Error())
			}
		}
		if len(leaks) > 0 {
			runtime.GC() // some memory is unmapped when it is garbage
		}
		if len(leaks) == 0 || late {
			return leaks
		}
		time.Sleep(pause)
	}
}

func (b *Baseline) find() []string {
	leaks := LeakedDescriptors(b.fds)
	if ChildrenLeft() {
		leaks = append(leaks, "child process left: "+strings.Join(Children(), ", "))
	}
	for name := range entries("/dev/shm") {
		if strings.HasPrefix(name, "tandem") && !b.shm[name] { // others may use it meanwhile
			leaks = append(leaks, "file left: /dev/shm/"+name)
		}
	}
	if n := mapped() - b.mapped; n > 0 {
		leaks = append(leaks, fmt.Sprintf("%d leaked mapping(s) of shared memory", n))
	}
	return leaks
}

// VerifyNoLeaks runs the tests of a package, as in
//
//	func TestMain(m *testing.M) { os.Exit(leaktest.VerifyNoLeaks(m.Run)) }
//
// and fails if they left anything that a [Baseline] finds, or a file in TMPDIR or
// XDG_RUNTIME_DIR, which name a private directory while they run.
func VerifyNoLeaks(run func() int, ignore ...goleak.Option) int {
	dir, err := os.MkdirTemp("", "t") // short: names of sockets have little room
	if err != nil {
		fmt.Fprintln(os.Stderr, "drivertest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"TMPDIR", "XDG_RUNTIME_DIR"} {
		if old, set := os.LookupEnv(name); set {
			defer os.Setenv(name, old)
		} else {
			defer os.Unsetenv(name)
		}
		os.Setenv(name, dir)
	}
	// Processes that the tests start would end a second late under the race
	// detector.
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))

	b := NewBaseline()
	code := run()
	if code != 0 {
		return code // a test that failed half-way leaves things, and says why itself
	}
	leaks := b.Leaks(ignore...)
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && path != dir {
			leaks = append(leaks, "file left: "+path)
		}
		return nil
	})
	if len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "leaktest: the tests left things behind:\n  %s\n", strings.Join(leaks, "\n  "))
		return 1
	}
	return 0
}

// LeakedDescriptors returns a line for each kind of which this process has more descriptors than [Descriptors] has counted before.
func LeakedDescriptors(before map[string]int) (leaks []string) {
	now := Descriptors()
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if n := now[what] - before[what]; n > 0 {
			leaks = append(leaks, fmt.Sprintf("%d leaked descriptor(s) of %s", n, what))
		}
	}
	return leaks
}

// Descriptors counts this process's descriptors by what they refer to.
func Descriptors() map[string]int {
	const dir = "/proc/self/fd"
	open := make(map[string]int)
	for name := range entries(dir) {
		what, err := os.Readlink(filepath.Join(dir, name))
		switch {
		case err != nil: // the one that the directory was read with
		case strings.HasPrefix(what, "/proc/") && strings.HasSuffix(what, "/fd"):
		default:
			kind, _, _ := strings.Cut(what, ":[") // sockets and pipes are numbered
			open[kind]++
		}
	}
	return open
}

// mapped counts this process's mappings of memory from memfd_create.
func mapped() int {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Count(string(maps), " /memfd:")
}

// entries returns the names in a directory, none if there is no such directory.
func entries(dir string) map[string]bool {
	list, _ := os.ReadDir(dir)
	names := make(map[string]bool, len(list))
	for _, e := range list {
		names[e.Name()] = true
	}
	return names
}

// Children describes the child processes of this one, as far as /proc tells.
func Children() []string {
	var found []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(b)) {
			cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			found = append(found, fmt.Sprintf("pid %s (%s)", pid, strings.ReplaceAll(strings.Trim(string(cmd), "\x00"), "\x00", " ")))
		}
	}
	return found
}
