package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// A foreign program is one of ours in another language, over a library that Go has not. It
// is two processes, ping and pong, which measure themselves when they are told to, so that
// their rounds run between those of the others. They are told on stdin and answer with lines
// of JSON on stdout, as the top of iceoryx2/src/main.rs says.
type foreign struct {
	name string
	// build makes the program and returns its command, without the arguments "ping" or
	// "pong" and a directory. If it cannot, it returns why.
	build func() ([]string, error)
	// most is the largest message, in bytes, that it takes.
	most int
	// warm is for how long it runs before it is measured for the first time, for each kind
	// and size: what compiles while it runs is not quick before.
	warm time.Duration
}

// noForeign, if not "", says why no foreign program is built.
var noForeign string

// command builds the program.
func (f *foreign) command() ([]string, error) {
	if noForeign != "" {
		return nil, errors.New(noForeign)
	}
	fmt.Fprintf(os.Stderr, "building the program of %s, which takes minutes the first time\n", f.name)
	return f.build()
}

// errNoTool says that a foreign program cannot be built here.
var errNoTool = errors.New("not on the PATH")

// tools fails if one of those is missing.
func tools(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is %w", name, errNoTool)
		}
	}
	return nil
}

// An answer is a line of a foreign program.
type answer struct {
	Error   string `json:"error"`
	Ready   bool   `json:"ready"`   // pong waits for messages
	Served  bool   `json:"served"`  // pong was told to stop
	Stopped bool   `json:"stopped"` // ping has told it
	// What ping has measured.
	Bytes     int     `json:"bytes"`
	Ops       int64   `json:"ops"`
	Busy      int64   `json:"busy_ns"`
	Elapsed   int64   `json:"elapsed_ns"`
	OpsPerS   float64 `json:"ops_per_s"`
	BytesPerS float64 `json:"bytes_per_s"`
	P50       int64   `json:"p50_ns"`
	P90       int64   `json:"p90_ns"`
	P99       int64   `json:"p99_ns"`
	P999      int64   `json:"p999_ns"`
	Max       int64   `json:"max_ns"`
	// Counts are pairs of a latency in nanoseconds and how often it was.
	Counts [][2]int64 `json:"counts"`
}

// parseAnswer reads a line.
func parseAnswer(line []byte) (a answer, err error) {
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("not an answer: %w: %.200q", err, line)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// sample makes a sample of what ping has measured. Where single operations were timed,
// it has to tell of each.
func (a *answer) sample(size int, oneWay bool) (s measure.Sample, err error) {
	if a.Bytes != size || a.Ops <= 0 || a.Busy <= 0 || a.Elapsed < a.Busy {
		return s, fmt.Errorf("an answer that cannot be: %d operations of %d bytes in %d of %d ns", a.Ops, a.Bytes, a.Busy, a.Elapsed)
	}
	s.Ops, s.Busy, s.Elapsed = a.Ops, time.Duration(a.Busy), time.Duration(a.Elapsed)
	s.Bytes = a.Ops * int64(size)
	if oneWay {
		return s, nil
	}
	s.Bytes *= 2
	s.Latencies = measure.NewHistogram(1)
	for _, c := range a.Counts {
		if c[0] < 0 || c[1] <= 0 {
			return s, fmt.Errorf("an answer that cannot be: %d operations of %d ns", c[1], c[0])
		}
		measure.Record(s.Latencies, time.Duration(c[0]), c[1])
	}
	if n := s.Latencies.TotalCount(); n != a.Ops {
		return s, fmt.Errorf("an answer that cannot be: %d operations, and latencies of %d", a.Ops, n)
	}
	return s, nil
}

// A process is one side of a foreign program.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan []byte // closed at the end of its output
}

// startProcess starts one side. Its errors go to stderr. A Ctrl-C of the terminal does
// not reach it: it ends with its stdin.
func startProcess(name string, command []string) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name, cmd, in, make(chan []byte, 1)}
	go func() {
		defer close(p.lines)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			p.lines <- append([]byte(nil), lines.Bytes()...)
		}
	}()
	return p, nil
}

// patience is how long a foreign program may take for an answer, beyond what it measures:
// the first start of a Java program beside others takes seconds.
const patience = time.Minute

// tell sends a command.
func (p *process) tell(command string) error {
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// answer waits for the next line, which takes about d.
func (p *process) answer(ctx context.Context, d time.Duration) (a answer, err error) {
	timeout := time.NewTimer(d + patience)
	defer timeout.Stop()
	select {
	case line, ok := <-p.lines:
		if !ok {
			err = errors.New("has ended early")
		} else {
			a, err = parseAnswer(line)
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = errors.New("does not answer")
	}
	if err != nil {
		err = fmt.Errorf("%s (pid %d): %w", p.name, p.cmd.Process.Pid, err)
	}
	return a, err
}

// grace is how long a process may tidy up after the end of its stdin.
const grace = 5 * time.Second

// close ends the process, whatever it does.
func (p *process) close() error {
	_ = p.in.Close() // which tells it
	kill := time.AfterFunc(grace, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	for range p.lines {
	}
	return p.cmd.Wait()
}

// A pair is a foreign program that runs.
type pair struct {
	ping, pong *process
	dir        string
	warmed     map[string]bool // kinds and sizes
}

// startPair starts a program, with a directory of its own in memory.
func startPair(name string, command []string) (*pair, error) {
	dir, err := os.MkdirTemp(sharedMemory(), "bench-peers-")
	if err != nil {
		return nil, err
	}
	p := &pair{dir: dir, warmed: make(map[string]bool)}
	for _, side := range []struct {
		name string
		p    **process
	}{{"pong", &p.pong}, {"ping", &p.ping}} {
		// A slice of its own for each.
		args := append(append([]string(nil), command...), side.name, dir)
		if *side.p, err = startProcess(name+" "+side.name, args); err != nil {
			_ = p.close() // the first error says more
			return nil, err
		}
	}
	return p, nil
}

// sharedMemory is where files are in memory, or "" for the system's temporary directory.
func sharedMemory() string {
	const dir = "/dev/shm"
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return ""
}

// close ends both. What they have left in memory has names that begin with those of dir.
func (p *pair) close() (err error) {
	for _, side := range []*process{p.ping, p.pong} {
		if side == nil {
			continue
		}
		if e := side.close(); e != nil {
			err = errors.Join(err, fmt.Errorf("end %s: %w", side.name, e))
		}
	}
	if p.dir != "" {
		left, _ := filepath.Glob(p.dir + "*") // which is no bad pattern
		for _, path := range left {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

// Kinds that are not like the others.
const (
	oneWayKind = "oneway" // single operations are not timed
	eventKind  = "event"  // carries no bytes
)

// measure measures for d, after a warm-up, of which the first takes no less than warm. With
// a pace, ping sleeps for so long before each operation.
func (p *pair) measure(ctx context.Context, kind string, size int, d, pace, warm time.Duration) (s measure.Sample, err error) {
	id := fmt.Sprintf("%s %d", kind, size)
	if err := p.pong.tell(id); err != nil {
		return s, err
	}
	if _, err := p.pong.answer(ctx, 0); err != nil {
		return s, err
	}
	run := func(d, pace time.Duration) (a answer, err error) {
		if err := p.ping.tell(fmt.Sprintf("%s %d %d", id, d.Nanoseconds(), pace.Nanoseconds())); err != nil {
			return a, err
		}
		return p.ping.answer(ctx, d)
	}
	warmUp := min(d/3, suite.WarmUp)
	if !p.warmed[id] {
		warmUp = max(warmUp, warm)
	}
	if _, err := run(warmUp, 0); err != nil {
		return s, err
	}
	p.warmed[id] = true
	ping, _ := measure.Process(p.ping.cmd.Process.Pid)
	pong, _ := measure.Process(p.pong.cmd.Process.Pid)
	a, err := run(d, pace)
	if err != nil {
		return s, err
	}
	if s, err = a.sample(size, kind == oneWayKind); err != nil {
		return s, fmt.Errorf("%s: %w", p.ping.name, err)
	}
	if kind == eventKind {
		s.Bytes = 0
	}
	if pace > 0 {
		s.Busy = s.Elapsed // as in suite.FromIdle
	}
	pingAfter, _ := measure.Process(p.ping.cmd.Process.Pid)
	pongAfter, _ := measure.Process(p.pong.cmd.Process.Pid)
	s.Host.CPU, s.Worker.CPU = pingAfter.CPU-ping.CPU, pongAfter.CPU-pong.CPU
	if err := p.ping.tell(id); err != nil {
		return s, err
	}
	for _, side := range []*process{p.ping, p.pong} {
		if _, err := side.answer(ctx, 0); err != nil {
			return s, err
		}
	}
	return s, nil
}

// foreigners keeps what was started of foreign programs.
type foreigners struct {
	mu    sync.Mutex
	pairs map[string]*pair
}

// measure starts the program if it does not run yet.
func (f *foreigners) measure(ctx context.Context, program *foreign, command []string, kind string, size int, d, pace time.Duration) (measure.Sample, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pairs[program.name]
	if p == nil {
		var err error
		if p, err = startPair(program.name, command); err != nil {
			return measure.Sample{}, err
		}
		if f.pairs == nil {
			f.pairs = make(map[string]*pair)
		}
		f.pairs[program.name] = p
	}
	return p.measure(ctx, kind, size, d, pace, program.warm)
}

func (f *foreigners) close() {
	for _, p := range f.pairs {
		if err := p.close(); err != nil {
			fmt.Fprintln(os.Stderr, err) // what was measured is complete all the same
		}
	}
}
