package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// runMain makes the test binary run main, for tests of the whole program.
const runMain = "TANDEM_BENCH_TEST_MAIN"

// calm is the program on a machine that has one state.
func calm() *suite.Program {
	p := program()
	p.Line = func() time.Duration { return 0 }
	return p
}

func TestMain(m *testing.M) {
	bare()
	worker.Main(suite.EntryName, func() error { return suite.Serve(register) })
	if os.Getenv(runMain) != "" {
		main()
	}
	// Otherwise, with -race, each worker takes a second to exit.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	os.Exit(m.Run())
}

// testTimeout is for what ends long before, if it works.
const testTimeout = time.Minute

// bench runs the program in this process and returns its JSON.
func bench(t *testing.T, args ...string) (report.Document, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	page := filepath.Join(t.TempDir(), "report.html")
	var out, errs bytes.Buffer
	status := calm().Main(append([]string{"-json", path, "-html", page}, args...), &out, &errs)
	require.Zero(t, status, "%s\n%s", errs.String(), out.String())
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.FileExists(t, page)
	return d, out.String()
}

func needsLinux(t *testing.T) {
	if runtime.GOOS != "linux" || ring.Supported() != nil {
		t.Skip("needs sealed shared memory")
	}
}

// Every scenario, with as little work as there can be: all results are there and
// can be true.
func TestScenarios(t *testing.T) {
	needsLinux(t)
	for _, test := range []struct {
		scenario string
		args     []string
		want     int
		check    func(t *testing.T, r report.Result)
	}{
		{"limit", nil, 7, nil},
		{"ring", []string{"-sizes", "8,4Ki", "-wait", "adaptive,park"}, 2 * (2 + 7), func(t *testing.T, r report.Result) {
			require.Equal(t, r.Batch == 0, r.P50 > 0, "round trips have latencies, and what goes one way a batch")
		}},
		{"path", nil, 13, func(t *testing.T, r report.Result) { require.Positive(t, r.P50) }},
		{"codec", nil, 7, func(t *testing.T, r report.Result) {
			require.Positive(t, r.P50)
			require.Positive(t, *r.Bytes)
		}},
		{"call", []string{"-sizes", "0,64,100000"}, (4+2)*3 + 4 + 4*2, func(t *testing.T, r report.Result) {
			require.Equal(t, r.Codec == "fixed", r.Bytes != nil && *r.Bytes == tickSize && r.Codec != "raw")
		}},
		{"concurrent", []string{"-callers", "1,20"}, 2 * (3 + 2), nil},
		{"rate", []string{"-wait", "adaptive"}, 4 * 2, func(t *testing.T, r report.Result) {
			require.Positive(t, r.Rate)
			require.Equal(t, r.Callers == 1, r.Rate == 1000 && r.Callers > 0)
		}},
		{"large", []string{"-sizes", "1Mi,3Mi", "-wait", "park"}, 2 * 4, func(t *testing.T, r report.Result) {
			if r.Subject == memcpy {
				require.Equal(t, thereAndBack, r.Mode)
				require.Positive(t, r.P50)
				return
			}
			require.Greater(t, r.RSS, int64(1<<20))
			require.Positive(t, r.Threads)
		}},
		{"buffers", []string{"-sizes", "8,1Mi,2Mi"}, (1 + 3) + (1 + 2) + 3*(1+2) + 2*2 + 3, func(t *testing.T, r report.Result) {
			trips := r.Mode == inPlace || r.Mode == bufferEcho || r.Mode == allocRelease
			require.Equal(t, trips, r.P50 > 0, "round trips have latencies, and what passes a bandwidth")
			require.Equal(t, trips, r.BytesPerS == 0)
			if r.Subject == "socket" {
				require.LessOrEqual(t, *r.Bytes, mostBySocket)
			}
		}},
		{"spawn", nil, 3, nil},
		{"idle", []string{"-callers", "3"}, 2, func(t *testing.T, r report.Result) {
			require.Equal(t, 3, r.Callers)
			require.Positive(t, r.Threads)
			require.Greater(t, r.RSS, int64(1<<20))
			require.NotNil(t, r.HostCPU)
		}},
		{"stream", []string{"-sizes", "0,64,70000", "-wait", "adaptive"}, 2 * (1 + 2*5), func(t *testing.T, r report.Result) {
			require.Positive(t, r.OpsPerS)
			require.Zero(t, r.P50)
			require.Equal(t, r.Mode == "", r.Batch == 0)
		}},
		{"streams", []string{"-sizes", "64Ki,8", "-callers", "20"}, (1 + 2*4) + (2 + 2) + (2 + 2) + 2*(2+2+1+1), func(t *testing.T, r report.Result) {
			require.Equal(t, r.P50 > 0, slices.Contains([]string{plainCall, firstItem, besideStream, besideOther}, r.Mode), "what waits for an answer has latencies")
			switch r.Mode {
			case millionItems:
				require.Greater(t, r.RSS, int64(1<<20))
			case idleStreamed:
				require.Equal(t, 20, r.Callers)
				require.NotNil(t, r.HostCPU)
			}
		}},
		{"services", []string{"-callers", "3"}, 2 * (6 + 1 + 1 + 1), func(t *testing.T, r report.Result) {
			require.Equal(t, r.Mode != idleDialled, r.P50 > 0, "what waits for an answer has latencies")
			if r.Mode == idleDialled {
				require.Equal(t, 3, r.Callers)
				require.Positive(t, r.Threads)
				require.NotNil(t, r.WorkerCPU)
			}
		}},
		{"topics", nil, 2*(1+3) + 4 + 2*4, func(t *testing.T, r report.Result) {
			require.Equal(t, r.Batch == 0, r.P50 > 0, "a publish has a latency, and what goes one way a batch")
			require.Equal(t, r.Batch == 0, r.Mode == publishing)
			require.Contains(t, r.Conditions(), "reader")
		}},
		{"interference", nil, 2 + 3, func(t *testing.T, r report.Result) {
			require.Equal(t, r.Mode == besideBusy, r.P50 > 0, "calls have latencies, and other work has not")
		}},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			args := append([]string{"-rounds", "2", "-duration", "4ms"}, test.args...)
			d, out := bench(t, append(args, test.scenario)...)
			require.Len(t, d.Results, test.want, out)
			seen := make(map[string]bool)
			for _, r := range d.Results {
				require.Equal(t, test.scenario, r.Scenario)
				require.NotEmpty(t, r.Subject)
				if test.scenario != "idle" && r.Mode != idleStreamed && r.Mode != idleDialled {
					require.Equal(t, 2, r.Rounds)
					require.Positive(t, r.OpsPerS, "%+v", r)
				}
				if r.P50 > 0 {
					require.LessOrEqual(t, r.P50, r.P90)
					require.LessOrEqual(t, r.P90, r.P99)
					require.LessOrEqual(t, r.P99, r.P999)
					require.LessOrEqual(t, r.P999, r.Max)
					require.Less(t, r.Max, int64(testTimeout))
				}
				name := r.Name() + " " + r.Conditions()
				require.False(t, seen[name], "%s is there twice", name)
				seen[name] = true
				require.Contains(t, out, r.Subject)
				if test.check != nil {
					test.check(t, r)
				}
			}
		})
	}
}

// What the memory of many items is measured with keeps none of them.
func TestManyItemsAreNotKept(t *testing.T) {
	needsLinux(t)
	t.Setenv("GOGC", "50") // with -race pools drop a part of what they get
	for _, way := range suite.Ways(new(suite.Options), justOne, justOne) {
		memory := func(items int) int64 {
			s, err := inFreshHost(t.Context(), streamHostRequest{Way: way, Most: items, Size: manySize})
			require.NoError(t, err)
			require.EqualValues(t, items, s.Ops)
			return s.Host.RSS + s.Worker.RSS
		}
		few, many := memory(1000), memory(manyItems)
		require.Less(t, many-few, int64(manyItems*manySize)/2, "%v: %d bytes for few items, %d for many", way, few, many)
	}
}

// What is selected is measured, and nothing else.
func TestSelect(t *testing.T) {
	d, _ := bench(t, "-rounds", "1", "-duration", "2ms", "-subjects", "socket", "-codec", "json", "call")
	require.Len(t, d.Results, 1)
	require.Equal(t, "socket", d.Results[0].Subject)
	require.Equal(t, "json", d.Results[0].Codec)
	require.Empty(t, d.Results[0].Wait)

	needsLinux(t)
	d, _ = bench(t, "-rounds", "1", "-duration", "2ms", "-subjects", "shm", "-wait", "park", "-sizes", "16", "-callers", "5", "concurrent")
	require.Len(t, d.Results, 1)
	require.Equal(t, "park", d.Results[0].Wait)
	require.Equal(t, 16, *d.Results[0].Bytes)
	require.Equal(t, 5, d.Results[0].Callers)
}

// A run compares with another one's file.
func TestBaseline(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "before.json")
	args := []string{"-rounds", "1", "-duration", "2ms", "-subjects", "socket", "-sizes", "64", "-codec", "raw"}
	var out, errs bytes.Buffer
	require.Zero(t, calm().Main(append(args, "-json", path, "call"), &out, &errs), errs.String())

	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	scale := func(factor float64) {
		e := d
		e.Results = append([]report.Result(nil), d.Results...)
		for i := range e.Results {
			r := &e.Results[i]
			r.P50, r.P99 = int64(float64(r.P50)*factor), int64(float64(r.P99)*factor)
			r.OpsPerS /= factor
			r.Allocs = new(*r.Allocs * factor)
		}
		require.NoError(t, report.WriteJSON(path, e))
	}
	scale(1e-4)
	out.Reset()
	require.Equal(t, 1, calm().Main(append(args, "-baseline", path, "-fail-worse", "call"), &out, &errs))
	require.Contains(t, out.String(), "worse:")
	require.Zero(t, calm().Main(append(args, "-baseline", path, "call"), &out, &errs), "without -fail-worse it only says so")
	scale(1e4)
	out.Reset()
	require.Zero(t, calm().Main(append(args, "-baseline", path, "-fail-worse", "call"), &out, &errs))
	require.Contains(t, out.String(), "better:")
}

// A worker that dies ends the run with an error that names it, in whatever way
// the scenario waits for it.
func TestWorkerDies(t *testing.T) {
	needsLinux(t)
	for _, args := range []string{
		"-subjects cacheline-2 limit", "-subjects futex limit", "-subjects unix-echo limit",
		"-subjects ring ring", "-subjects link path", "-subjects shm path", "-subjects shm interference", "-subjects ring -wait spin ring",
		"-subjects shm -codec raw call", "-subjects shm -wait spin -codec raw call", "-subjects socket concurrent", "-subjects shm rate",
		"-subjects socket large", "-subjects memcpy large", "-subjects shm buffers", "-subjects socket buffers", "-subjects shm stream", "-subjects shm streams", "-subjects socket streams", "-subjects shm services", "-subjects socket services", "-subjects broadcast -callers 3 topics", "-subjects shm -callers 3 topics", "-subjects socket -callers 3 topics", "-subjects shm -callers 2 idle",
	} {
		t.Run(strings.ReplaceAll(args, " ", "_"), func(t *testing.T) {
			before := children(t)
			var out bytes.Buffer
			errs := new(lockedBuffer)
			status := make(chan int)
			go func() {
				status <- calm().Main(append([]string{"-rounds", "1", "-duration", "20s"}, strings.Fields(args)...), &out, errs)
			}()
			var pid int
			require.Eventually(t, func() bool {
				for p := range children(t) {
					// Go starts a child of its own to try what the system can do.
					name, _ := os.ReadFile("/proc/" + strconv.Itoa(p) + "/cmdline")
					if !before[p] && bytes.HasPrefix(name, []byte("tandem-worker:")) {
						pid = p
					}
				}
				return pid != 0
			}, testTimeout, time.Millisecond)
			// So that it dies in its start at times, and at others when it is busy.
			time.Sleep(time.Duration(pid%3) * 40 * time.Millisecond)
			process, err := os.FindProcess(pid)
			require.NoError(t, err)
			require.NoError(t, process.Kill())
			select {
			case s := <-status:
				require.Equal(t, 1, s, errs.String())
				require.Contains(t, errs.String(), strconv.Itoa(pid))
				require.Contains(t, errs.String(), "worker")
				require.Contains(t, errs.String(), "killed")
			case <-time.After(testTimeout):
				t.Fatal("the run does not end: ", errs.String())
			}
		})
	}
}

// children returns the processes that this one has started and not reaped.
func children(t *testing.T) map[int]bool {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	all := make(map[int]bool)
	for _, f := range files {
		data, _ := os.ReadFile(f) // the thread may be gone
		for _, s := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(s)
			require.NoError(t, err)
			all[pid] = true
		}
	}
	return all
}

// Ctrl-C ends the program with what was measured so far, and leaves no process.
func TestInterrupt(t *testing.T) {
	needsLinux(t)
	path := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.Command("/proc/self/exe", "-rounds", "3", "-duration", "20ms", "-subjects", "shm,socket", "-json", path, "call", "stream")
	cmd.Env = append(os.Environ(), runMain+"=1")
	var out bytes.Buffer
	errs := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = &out, errs
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(errs.String(), "call ") }, testTimeout, time.Millisecond, "a group is done")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	err := cmd.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 130, exit.ExitCode(), errs.String())
	require.Contains(t, errs.String(), "interrupted")
	require.Contains(t, out.String(), "call: round trip")
	d, err := report.ReadJSON(path)
	require.NoError(t, err)
	require.NotEmpty(t, d.Results)
	for _, r := range d.Results {
		require.Positive(t, r.P50)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTally(t *testing.T) {
	for _, size := range []int{0, 1, 8, 15, 16, 100} {
		for n := range uint64(6) {
			message := make([]byte, size)
			var got suite.Tally
			for i := range n {
				suite.Stamp(message, i)
				got.Add(message)
			}
			require.Equal(t, suite.Expect(size, n), got, "%d messages of %d bytes", n, size)
		}
	}
	message := make([]byte, 16)
	suite.Stamp(message, 7)
	message[15] ^= 1
	var got suite.Tally
	got.Add(message)
	require.EqualValues(t, 1, got.Bad)
}

func TestOrderNoticesWhatIsGarbled(t *testing.T) {
	c := &orderCall{request: newOrder()}
	c.Prepare(3)
	c.response = newOrder()
	require.ErrorIs(t, c.Check(), suite.ErrGarbled, "another call's answer")
	c.response.ID = 3
	require.NoError(t, c.Check())
	c.Prepare(compareAll)
	c.response.ID = compareAll
	require.NoError(t, c.Check())
	c.response.Items[2].Price++
	require.ErrorIs(t, c.Check(), suite.ErrGarbled)
	data, err := json.Marshal(newOrder())
	require.NoError(t, err)
	require.InDelta(t, 650, len(data), 50, "as its comment and README.md say")
}
