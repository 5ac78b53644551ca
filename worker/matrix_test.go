//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The matrix: a host or a worker dies or stops, at any moment, in any way. What
// that comes to for the other one is always the same.

var matrixRepeat = flag.Int("matrix.repeat", 1, "how often TestMatrix plays each scene; from the second time on death comes after a random pause")

// moments are when it happens, named by where the worker or its host is, and what
// the host gets: X is how the worker ended to the caller, Y how it ended to Close.
var moments = []struct{ name, outcome string }{
	{"before hello", "start: X"},                    // the worker has not opened its driver
	{"after hello", "calls: X, later: X, close: Y"}, // the worker does not serve yet
	{"idle", "later: X, close: Y"},
	{"calls", "calls: X, later: X, close: Y"},            // many quick ones
	{"handler", "calls: X, later: X, close: Y"},          // that heeds its context
	{"stubborn handler", "calls: X, later: X, close: Y"}, // that does not
	{"large request", "calls: X, later: X, close: Y"},    // many of them
	{"large response", "calls: X, later: X, close: Y"},
	{"host blocked", "calls: X, later: X, close: Y"},   // the worker does not read, and there is no room for more
	{"worker blocked", "calls: X, later: X, close: Y"}, // the host does not read
	{"close", "calls: closed X, close: Y"},             // waits for a call
	{"goodbye", "close: Y"},                            // is said, and the worker waits for a handler
	{"reconnect", "reconnect: X, later: X, close: Y"},  // waits for the hello of the worker
	{"reconnected", "calls: X, later: X, close: Y"},    // and the worker does not serve yet
	{"stream down", "calls: X, later: X, close: Y"},    // in the middle of one; see matrix_stream_test.go
	{"stream up", "calls: X, later: X, close: Y"},
	{"stream down blocked", "calls: X, later: X, close: Y"}, // the host does not read, and the window is full
	{"stream up blocked", "calls: X, later: X, close: Y"},
	{"stream half closed", "calls: X, later: X, close: Y"}, // the host has sent all, and waits
	{"buffers", "calls: X, later: X, close: Y"},            // many on their way, in both directions
	{"buffer held", "calls: X, later: X, close: Y"},        // by the worker's handler
}

// ways are how it happens: the process exits, gets SIGKILL, shuts its sockets and runs
// on, or gets SIGSTOP and then SIGCONT.
var ways = []string{"exit", "kill", "close", "stop"}

// hostOutcome is what a host that lives gets.
func hostOutcome(driver, when, outcome, how string) string {
	x, y := "fine", "fine"
	switch how {
	case "exit":
		x, y = "exit 3", "exit 3"
	case "kill":
		x, y = "killed", "killed"
	case "close":
		switch {
		case when == "before hello":
			return "start: exit 1" // the worker cannot open its driver
		case when == "goodbye", when == "reconnect":
			// The worker was about to end, or the next attempt succeeds.
		case driver == "socket":
			x = "gone" // a worker that can be reconnected runs on
			outcome = strings.Replace(outcome, "closed X", "X", 1)
			if when == "stubborn handler" {
				y = "killed" // the worker waits for its handler
			}
		default:
			x, y = "exit 1", "exit 1"
		}
	case "stop":
		if when == "before hello" {
			outcome = "later: X, close: Y"
		}
		outcome = strings.Replace(outcome, "closed X", "X", 1)
	}
	return strings.NewReplacer("X", x, "Y", y).Replace(outcome)
}

const (
	matrixEnv   = "TANDEM_TEST_MATRIX"
	matrixLimit = time.Minute // nothing but what hangs takes so long
	matrixLarge = 16 << 20
)

var (
	stay   = ipc.NewMethod[string, string]("matrix.stay") // until the gate opens, or for ever
	sink   = ipc.NewMethod[[]byte, int]("matrix.sink")
	source = ipc.NewMethod[int, []byte]("matrix.source") // so many bytes
)

func init() {
	entries["matrix"] = beMatrixWorker
	if os.Getenv(matrixEnv) != "" && drivers.Startup() == nil {
		beMatrixHost()
	}
}

// stage is where a process of a scene plays: the directory where all of them leave
// notes, and a gate, which is open when what was to happen has happened.
type stage struct {
	driver, when, how, dir string
	gate                   chan struct{}
	open                   func()
}

func newStage(driver, when, how, dir string) *stage {
	gate := make(chan struct{})
	return &stage{driver, when, how, dir, gate, sync.OnceFunc(func() { close(gate) })}
}

func (s *stage) note(name, text string) {
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.WriteFile(path+".part", []byte(text), 0o600), os.Rename(path+".part", path)); err != nil {
		panic(err)
	}
}

func (s *stage) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, name))
	return string(b)
}

// await waits for a note, and returns it.
func (s *stage) await(name string) string {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if text := s.read(name); text != "" {
			return text
		}
		if time.Since(start) > matrixLimit {
			panic("still nothing of " + name)
		}
	}
}

// wait waits at the gate, if this is the moment.
func (s *stage) wait(when string) {
	if s.when == when {
		s.note("waits", strconv.Itoa(os.Getpid()))
		<-s.gate
	}
}

// obey does to this process what its signals ask for.
func (s *stage) obey() {
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT)
	go func() {
		for sig := range signals {
			switch sig {
			case syscall.SIGUSR1:
				os.Exit(3)
			case syscall.SIGUSR2:
				if err := cutLinks(); err != nil {
					panic(err)
				}
				s.note("cut", "x")
			}
			s.open()
		}
	}()
}

// strike does it to a process that obeys, and returns when it has happened.
func (s *stage) strike(pid int) {
	sig := map[string]syscall.Signal{"exit": syscall.SIGUSR1, "kill": syscall.SIGKILL, "close": syscall.SIGUSR2, "stop": syscall.SIGSTOP}[s.how]
	if err := syscall.Kill(pid, sig); err != nil {
		panic(err)
	}
	switch s.how {
	case "close":
		for s.read("cut") == "" && !ended(pid) { // which it may cause
			time.Sleep(time.Millisecond)
		}
	case "stop":
		for state(pid) != "T" {
			time.Sleep(time.Millisecond)
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
	default:
		for !ended(pid) {
			time.Sleep(time.Millisecond)
		}
	}
}

// ended reports whether a process has ended; it may not have been reaped.
func ended(pid int) bool { return gone(pid) || state(pid) == "Z" }

// quiet waits until a process does nothing.
func quiet(pid int) {
	used := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		return string(b)
	}
	// On a loaded machine it may never seem to be; then it has had time enough.
	begin := time.Now()
	for before := used(); time.Since(begin) < 2*time.Second; {
		time.Sleep(5 * time.Millisecond)
		now := used()
		if now == before && state(pid) != "R" {
			return
		}
		before = now
	}
}

// gatedAcceptor makes a worker wait at the gate.
type gatedAcceptor struct {
	drivers.Acceptor
	stage *stage
}

func (a gatedAcceptor) Capabilities() drivers.Capabilities {
	return a.Acceptor.Capabilities()
}

func (a gatedAcceptor) Open(s *drivers.StartupData, log *slog.Logger) (drivers.Endpoint, error) {
	a.stage.wait("before hello")
	e, err := a.Acceptor.Open(s, log)
	return &gatedEndpoint{Endpoint: e, stage: a.stage}, err
}

type gatedEndpoint struct {
	drivers.Endpoint
	stage *stage
	again bool
}

func (e *gatedEndpoint) Accept(ctx context.Context, local drivers.Hello) (drivers.Link, error) {
	before, after := "", "after hello"
	if e.again {
		before, after = "reconnect", "reconnected"
	}
	e.again = true
	e.stage.wait(before)
	l, err := e.Endpoint.Accept(ctx, local)
	e.stage.wait(after)
	if e.stage.when == "host blocked" && err == nil {
		l = gatedLink{l, e.stage}
	}
	return l, err
}

// gatedLink does not read before the gate is open.
type gatedLink struct {
	drivers.Link
	stage *stage
}

func (l gatedLink) Next(f *drivers.Frame) (bool, error) {
	<-l.stage.gate
	return l.Link.Next(f)
}

// gatedDriver makes a host wait at the gate before it reads.
type gatedDriver[C drivers.Channel] struct {
	drivers.Driver[C]
	stage *stage
}

type gatedChannel struct {
	drivers.Channel
	stage *stage
}

func (d gatedDriver[C]) Spawn(ctx context.Context, cmd *drivers.Command) (gatedChannel, error) {
	c, err := d.Driver.Spawn(ctx, cmd)
	return gatedChannel{c, d.stage}, err
}

func (c gatedChannel) Links(fn func(drivers.Link)) {
	c.Channel.Links(func(l drivers.Link) {
		if c.stage.when == "worker blocked" {
			l = gatedLink{l, c.stage}
		}
		fn(l)
	})
}

func beMatrixWorker() error {
	stage := newStage(drivers.Startup().Driver, os.Args[1], os.Args[2], os.Args[3])
	stage.obey()
	s := worker.NewServer()
	driver, _ := drivers.Find(stage.driver)
	s.RequireDriver(gatedAcceptor{driver, stage})
	worker.Handle(s, stay, func(ctx context.Context, text string) (string, error) {
		stage.note("stays", strconv.Itoa(os.Getpid()))
		end := ctx.Done()
		if stage.when == "stubborn handler" {
			end = nil
		}
		if stage.how == "stop" {
			<-stage.gate
			return text, nil
		}
		<-end
		return "", ctx.Err()
	})
	worker.Handle(s, sink, func(_ context.Context, b []byte) (int, error) { return len(b), nil })
	worker.Handle(s, source, func(_ context.Context, n int) ([]byte, error) {
		stage.note("sends", "x")
		return make([]byte, n), nil
	})
	stage.handleStreams(s)
	stage.handleBuffers(s)
	err := serveTest(s)
	stage.note("served", outcomeOf(err))
	return err
}

// outcomeOf says what an error is to a caller.
func outcomeOf(err error) string {
	var exit *worker.ExitError
	var limit *ipc.TimeoutError
	var of []string
	for _, f := range []struct {
		name string
		err  error
	}{{"closed", ipc.ErrClosed}, {"disconnected", ipc.ErrDisconnected}, {"canceled", context.Canceled}, {"protocol", ipc.ErrProtocol}} {
		if errors.Is(err, f.err) {
			of = append(of, f.name)
		}
	}
	switch {
	case err == nil:
		return "fine"
	case errors.As(err, &limit):
		of = append(of, "limit")
	case errors.As(err, &exit) && exit.Cause != nil:
		of = append(of, "killed by the host")
	case errors.As(err, &exit) && exit.Signal == syscall.SIGKILL:
		of = append(of, "killed")
	case errors.As(err, &exit):
		of = append(of, fmt.Sprintf("exit %d", exit.Code))
	case errors.Is(err, ipc.ErrPeerGone):
		of = append(of, "gone")
	}
	if of == nil {
		return err.Error()
	}
	return strings.Join(of, " ")
}

// play plays a scene to its end, and says how it ended for the host. reached is
// called when the moment is there, with the worker's process id.
func (s *stage) play(reached func(pid int)) string {
	switch s.driver {
	case "shm":
		return play(s, shm.Driver{}, reached)
	default:
		return play(s, socket.Driver{}, reached)
	}
}

func play[C drivers.Channel](s *stage, driver drivers.Driver[C], reached func(pid int)) string {
	cmd := worker.Self("matrix")
	cmd.Args = append(cmd.Args, s.when, s.how, s.dir)
	if s.when == "before hello" {
		go func() {
			pid, _ := strconv.Atoi(s.await("waits"))
			reached(pid)
		}()
	}
	w, err := worker.Spawn(context.Background(), cmd, gatedDriver[C]{driver, s}, worker.WithGrace(10*time.Second))
	if err != nil {
		return "start: " + outcomeOf(err)
	}
	background := context.Background()
	var outcome []string
	say := func(what string, err error) { outcome = append(outcome, what+": "+outcomeOf(err)) }

	// The calls at the moment. Some goroutines make them, again and again, until one
	// fails, or, if all is to go on, one that began after the moment is over.
	var call func(n int) error
	callers := 1
	switch s.when {
	case "after hello", "reconnected":
		call = func(n int) error { return callAdd(w, n) }
	case "calls":
		callers = 8
		call = func(n int) error { return callAdd(w, n) }
	case "handler", "stubborn handler", "close":
		call = func(n int) error {
			text := strconv.Itoa(n)
			got, err := stay.Call(background, w, text)
			return unless(got == text, err)
		}
	case "large request":
		request := make([]byte, matrixLarge)
		call = func(int) error {
			n, err := sink.Call(background, w, request)
			return unless(n == matrixLarge, err)
		}
	case "large response", "worker blocked":
		call = func(int) error {
			b, err := source.Call(background, w, matrixLarge)
			return unless(len(b) == matrixLarge, err)
		}
	case "buffers":
		callers = 8
		call = bufferCall(w.Arena(), w, bufferCopy)
	case "buffer held":
		call = bufferCall(w.Arena(), w, bufferStay)
	case "host blocked":
		call = func(int) error { return notify.Notify(background, w, note, ipc.WithTimeout(0)) }
	}

	var streaming func(pid int)
	if strings.HasPrefix(s.when, "stream") {
		call, streaming = s.stream(w)
	}

	channel, _ := w.Channel().Channel.(*socket.Channel)
	var reconnected chan error
	if strings.HasPrefix(s.when, "reconnect") {
		if err := channel.Disconnect(); err != nil {
			panic(err)
		}
		reconnected = make(chan error, 1)
		if s.when == "reconnect" {
			s.await("waits")
		}
		go func() { reconnected <- channel.Reconnect(background) }()
		if s.when == "reconnected" {
			if err := <-reconnected; err != nil {
				panic(err)
			}
			reconnected = nil
		}
	}
	var made atomic.Int64
	var sent atomic.Int64
	results := make(chan error, callers)
	if call != nil {
		for range callers {
			go func() {
				for {
					after := isOpen(s.gate)
					err := call(int(made.Add(1)))
					if err == nil {
						sent.Add(1)
					}
					if err != nil || after && s.how == "stop" || s.when == "close" {
						results <- err
						return
					}
				}
			}()
		}
	}
	var closed chan error
	pid := w.PID()
	switch s.when {
	case "after hello", "reconnected":
		s.await("waits")
	case "idle", "reconnect":
		quiet(pid)
	case "calls", "buffers":
		for made.Load() < 100 {
			time.Sleep(time.Millisecond)
		}
	case "handler", "stubborn handler", "buffer held":
		s.await("stays")
	case "close":
		s.await("stays")
		closed = make(chan error, 1)
		go func() { closed <- w.Close() }()
		for w.Active() {
			time.Sleep(time.Millisecond)
		}
	case "goodbye":
		if err := stay.Notify(background, w, "x"); err != nil {
			panic(err)
		}
		s.await("stays")
		closed = make(chan error, 1)
		go func() { closed <- w.Close() }()
		for w.Active() {
			time.Sleep(time.Millisecond)
		}
		quiet(pid)
	case "large request":
		for made.Load() < 2 {
			time.Sleep(time.Millisecond)
		}
	case "large response":
		s.await("sends")
	case "host blocked":
		for before := int64(-1); before != made.Load(); time.Sleep(20 * time.Millisecond) {
			before = made.Load()
		}
	case "worker blocked":
		s.await("sends")
		quiet(pid)
	}
	if streaming != nil {
		streaming(pid)
	}
	if s.when != "before hello" {
		reached(pid)
	}
	if s.when == "idle" {
		<-s.gate
	}
	if reconnected != nil {
		say("reconnect", <-reconnected)
	}
	if call != nil {
		var failed error
		for range callers {
			if err := <-results; err != nil {
				if failed != nil && outcomeOf(err) != outcomeOf(failed) {
					say("others", err)
				}
				failed = err
			}
		}
		say("calls", failed)
	}
	if closed == nil {
		err := callAdd(w, 1)
		for err == nil && s.how != "stop" && s.when == "idle" {
			err = callAdd(w, 1) // it takes a moment to be seen
		}
		for err == nil && s.when == "host blocked" && notes(w) != sent.Load() {
			time.Sleep(time.Millisecond) // no notification was lost
		}
		say("later", err)
		closed = make(chan error, 1)
		go func() { closed <- w.Close() }()
	}
	say("close", <-closed)
	return strings.Join(outcome, ", ") + buffersLeft(w.Arena())
}

func isOpen(gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}

// note is a notification that takes some room.
var note = strings.Repeat("x", 4<<10)

// notes counts the notes that the worker has got.
func notes(w ipc.Caller) int64 {
	n, _ := events.Call(context.Background(), w, note)
	return int64(n)
}

func callAdd(w ipc.Caller, n int) error {
	sum, err := add.Call(context.Background(), w, pair{n, 1})
	return unless(sum == n+1, err)
}

func unless(right bool, err error) error {
	if err == nil && !right {
		return errWrong
	}
	return err
}

// beMatrixHost is the host of a scene in which the host is to die.
func beMatrixHost() {
	f := strings.Split(os.Getenv(matrixEnv), ",")
	s := newStage(f[0], f[1], f[2], f[3])
	s.obey()
	before := drivertest.NewBaseline()
	outcome := s.play(func(pid int) { s.note("reached", strconv.Itoa(pid)) })
	if leaks := before.Leaks(); len(leaks) > 0 {
		outcome += "\n" + strings.Join(leaks, "\n")
	}
	s.note("host", outcome)
	os.Exit(0)
}

// pause is a random one, if the scene is played again.
func pause(round int) {
	if round > 0 {
		time.Sleep(rand.N(50 * time.Millisecond))
	}
}

// workerIsStruck plays a scene in which the worker dies or stops.
func workerIsStruck(t *testing.T, driver, when, how string, round int) string {
	s := newStage(driver, when, how, t.TempDir())
	ended := make(chan string, 1)
	var victim atomic.Int64
	go func() {
		ended <- s.play(func(pid int) {
			victim.Store(int64(pid))
			pause(round)
			s.strike(pid)
			s.open()
		})
	}()
	select {
	case outcome := <-ended:
		if pid := int(victim.Load()); !gone(pid) {
			outcome += ", and its process is left"
		}
		return outcome
	case <-time.After(matrixLimit):
		stacks := make([]byte, 1<<20)
		t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
		_ = syscall.Kill(int(victim.Load()), syscall.SIGKILL)
		return "hangs"
	}
}

// hostIsStruck plays a scene in which the host dies or stops, seen from outside. It
// returns what the host says, if it lives, and how the worker's Serve ended.
func hostIsStruck(t *testing.T, driver, when, how string, round int) (outcome, served string) {
	s := newStage(driver, when, how, t.TempDir())
	tmp, err := os.MkdirTemp("", "h")
	require.NoError(t, err)
	host := exec.Command("/proc/self/exe")
	host.Env = append(os.Environ(), "TMPDIR="+tmp, matrixEnv+"="+strings.Join([]string{driver, when, how, s.dir}, ","))
	var stderr bytes.Buffer
	host.Stderr = &stderr
	host.WaitDelay = time.Second
	require.NoError(t, host.Start())
	watchdog := time.AfterFunc(matrixLimit, func() { _ = host.Process.Signal(syscall.SIGQUIT) }) // it prints its stacks
	defer watchdog.Stop()
	pid, err := strconv.Atoi(s.await("reached"))
	require.NoError(t, err)
	pause(round)
	s.strike(host.Process.Pid)
	if how == "stop" || how == "close" {
		_ = syscall.Kill(pid, syscall.SIGCONT) // so that the worker's gate opens
	}
	_ = host.Wait()
	eventually(t, "the worker has ended", func() bool { return len(groupOf(pid)) == 0 })
	require.NoError(t, os.Remove(tmp), "nothing is left there")
	if stderr.Len() > 0 {
		t.Logf("%s", stderr.String())
	}
	return s.read("host"), s.read("served")
}

// orLate returns an outcome, and what it may be instead on a loaded machine: a worker that
// does not end itself within drivers.ExitDelay is killed, and a call that comes before the
// end of a link was noticed ends with that link.
func orLate(outcome string) []string {
	return []string{
		outcome, strings.ReplaceAll(outcome, "exit 1", "killed by the host"),
		strings.ReplaceAll(outcome, "calls: closed killed", "calls: closed"), // Close had waited for long enough
		strings.ReplaceAll(outcome, "later: exit 3", "later: disconnected"),
	}
}

// inTime plays a scene, and plays it again if a loaded machine may have made it another one: the worker was killed that was to leave by
// itself, since the two seconds that it has after SIGTERM were too short, or its sockets were closed before the goodbye had come. A worker that does
// not leave is killed each time, and one that takes the goodbye for an accident fails each time.
func inTime(when, want string, play func() string) (outcome string) {
	rest, fine := strings.CutSuffix(want, "close: fine")
	for range 3 {
		outcome = play()
		late := outcome == rest+"close: killed" || when == "goodbye" && outcome == rest+"close: exit 1"
		if !fine || !late {
			break
		}
	}
	return outcome
}

func TestMatrix(t *testing.T) {
	before := drivertest.NewBaseline()
	slots := make(chan struct{}, 16) // most of them sleep most of the time
	var wg sync.WaitGroup
	scene := func(driver, when, outcome, how string, round int) {
		for _, who := range []string{"worker", "host"} {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				t.Run(strings.Join([]string{who, when, how, driver}, "/"), func(t *testing.T) {
					want := hostOutcome(driver, when, outcome, how)
					if who == "worker" {
						require.Contains(t, orLate(want), inTime(when, want, func() string { return workerIsStruck(t, driver, when, how, round) }))
						return
					}
					var served string
					host := inTime(when, want, func() (host string) {
						host, served = hostIsStruck(t, driver, when, how, round)
						return host
					})
					if how == "exit" || how == "kill" {
						want = ""
					}
					require.Contains(t, orLate(want), host)
					waits := slices.Contains([]string{"before hello", "after hello", "reconnect", "reconnected"}, when)
					switch {
					case waits && want == "", strings.HasSuffix(want, "killed"):
						require.Empty(t, served, "it was killed where it waited")
					case want != "" && !strings.Contains(host, "killed by the host"):
						require.NotEmpty(t, served, "Serve has returned")
					default:
						// SIGTERM or the end of the link came first, or the second that it has was
						// too short, if it waits or the machine is loaded.
						require.Contains(t, []string{"fine", "gone", ""}, served)
					}
				})
			})
		}
	}
	for round := range *matrixRepeat {
		for _, m := range moments {
			for _, how := range ways {
				if !strings.HasPrefix(m.name, "reconnect") {
					scene("shm", m.name, m.outcome, how, round)
				}
				scene("socket", m.name, m.outcome, how, round)
			}
		}
	}
	wg.Wait()
	if !t.Failed() {
		require.Empty(t, before.Leaks())
	}
}
