//go:build unix

package worker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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

type pair struct{ A, B int }

var (
	errSentinel = errors.New("test sentinel")
	errWrong    = errors.New("another answer")
)

func init() { ipc.RegisterError("worker_test.sentinel", errSentinel) }

// The contract of the test worker.
var (
	inPlace  = ipc.NewMethod[[]byte, []byte]("test.in_place", ipc.WithCodec(ipc.Raw))
	rawEcho  = ipc.NewMethod[[]byte, []byte]("test.raw_echo", ipc.WithCodec(ipc.Raw))
	add      = ipc.NewMethod[pair, int]("test.add")
	fail     = ipc.NewMethod[string, int]("test.fail")
	block    = ipc.NewMethod[string, string]("test.block")     // until its context ends
	events   = ipc.NewMethod[string, int]("test.events")       // how often something happened
	crash    = ipc.NewMethod[string, int]("test.crash")        // ends the process
	callback = ipc.NewMethod[int, int]("test.callback")        // calls double on the host
	double   = ipc.NewMethod[int, int]("test.double")          // the host's
	busy     = ipc.NewMethod[time.Duration, int]("test.busy")  // computes for so long
	sleep    = ipc.NewMethod[time.Duration, int]("test.sleep") // sleeps for so long
	unknown  = ipc.NewMethod[int, int]("test.no_handler")
	notify   = ipc.NewMethod[string, struct{}]("test.notify")
	pid      = ipc.NewMethod[int, pids]("test.pid")
	fixed    = ipc.NewMethod[quote, quote]("test.fixed", ipc.WithCodec(ipc.Fixed))
	anyCodec = ipc.NewMethod[[]byte, []byte]("test.any_codec")
	die      = ipc.NewMethod[death, int]("test.die")
	dieSafe  = ipc.NewMethod[death, int]("test.die_safe", ipc.WithIdempotent())
	safePID  = ipc.NewMethod[int, int]("test.safe_pid", ipc.WithIdempotent())
)

// death asks a worker to add a byte to the file, to die if it is not longer than
// Times then, and to return the length.
type death struct {
	File  string
	Times int
}

// badError is an error that panics.
type badError struct{}

func (badError) Error() string { panic("no text") }

type quote struct {
	Time  int64
	Price float64
}

type pids struct {
	PID, Parent int
	Startup     bool
	Env         bool // a child of the worker sees the startup data
	Data        map[string]int
	Driver      string
	Goroutines  int
}

// programs are what this program also is, by the name it is run under.
var programs = make(map[string]func() error)

// entries are those of workers that files for one system have.
var entries = make(map[string]func() error)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("test", func() error { return serveTest(worker.NewServer()) })
	worker.Main("text", serveText)
	worker.Main("codec", func() error {
		s := worker.NewServer()
		s.RequireCodec(ipc.JSON)
		return serveTest(s)
	})
	worker.Main("socket", func() error {
		s := worker.NewServer()
		s.RequireDriver(socket.Driver{})
		return serveTest(s)
	})
	worker.Main("exit", func() error {
		fmt.Fprintln(os.Stderr, "no configuration found")
		os.Exit(7)
		return nil
	})
	worker.Main("mute", func() error {
		fmt.Fprintln(os.Stderr, "thinking")
		forever()
		return nil
	})
	worker.Main("stubborn", func() error {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM) // and never look
		s := worker.NewServer()
		err := serveTest(s)
		fmt.Fprintln(os.Stderr, "served", err)
		forever()
		return err
	})
	worker.Main("tidy", func() error { // has something to do when it has served
		err := serveTest(worker.NewServer())
		time.Sleep(700 * time.Millisecond)
		return err
	})
	worker.Main("once", func() error { // serves if it is the first one
		f, err := os.OpenFile(os.Args[1], os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			forever()
		}
		f.Close()
		return serveTest(worker.NewServer())
	})
	worker.Main("hostile", beHostile)
	worker.Main("twice", func() error {
		if err := serveTest(worker.NewServer()); err != nil {
			return err
		}
		if err := serveTest(worker.NewServer()); err == nil {
			return errors.New("served twice")
		}
		return nil
	})
	for name, entry := range entries {
		worker.Main(name, entry)
	}
	if program, ok := programs[filepath.Base(os.Args[0])]; ok {
		if err := program(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if drivers.Startup() != nil { // for an entry that is not above: go on as a host would
		_, err := worker.Start(context.Background(), worker.Self("test"))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if name, ok := os.LookupEnv(hostEnv); ok {
		beHost(name)
	}
	if err := flag.Set("test.parallel", "6"); err != nil { // those that run side by side wait for most of their time
		panic(err)
	}
	os.Exit(drivertest.VerifyNoLeaks(drivertest.Quiet(m.Run)))
}

// link makes a file by which this program runs as the one of programs with this name.
func link(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, path)) // a copy could be busy while another test forks
	return path
}

// hostEnv names the driver in a process that is to be a host itself.
const hostEnv = "TANDEM_TEST_HOST"

func serveTest(s *worker.Server) error {
	handleTest(s)
	return s.Serve(context.Background())
}

// handleTest registers what the test worker does.
func handleTest(s *worker.Server) {
	var mu sync.Mutex
	counts := make(map[string]int)
	happened := func(what string) {
		mu.Lock()
		counts[what]++
		mu.Unlock()
	}
	worker.Handle(s, rawEcho, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.HandleInPlace(s, inPlace, func(_ context.Context, call worker.InPlace) error {
		call.Reply(call.Request())
		return nil
	})
	worker.Handle(s, anyCodec, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.Handle(s, fixed, func(_ context.Context, q quote) (quote, error) { return q, nil })
	worker.Handle(s, add, func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
	worker.Handle(s, fail, func(_ context.Context, how string) (int, error) {
		switch how {
		case "plain":
			return 0, errors.New("plain failure")
		case "code":
			return 0, &ipc.Error{Code: ipc.CodeNotFound, Message: "no such thing", Details: map[string]string{"thing": "x"}}
		case "sentinel":
			return 0, fmt.Errorf("in context: %w", errSentinel)
		case "panic":
			panic("out of cheese")
		case "nil":
			var e *ipc.Error
			return 0, e
		case "bad error":
			return 0, badError{}
		case "goexit":
			runtime.Goexit()
		case "exit":
			return 0, io.EOF
		}
		return 1, nil
	})
	worker.Handle(s, block, func(ctx context.Context, name string) (string, error) {
		happened(name + ".begin")
		defer happened(name + ".end")
		if _, ok := ctx.Deadline(); ok {
			happened(name + ".deadline")
		}
		<-ctx.Done()
		return "", ctx.Err()
	})
	worker.Handle(s, notify, func(_ context.Context, name string) (struct{}, error) {
		happened(name)
		return struct{}{}, nil
	})
	worker.Handle(s, events, func(_ context.Context, name string) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return counts[name], nil
	})
	worker.Handle(s, crash, func(_ context.Context, how string) (int, error) {
		fmt.Fprintln(os.Stderr, "last words:", how)
		switch how {
		case "exit":
			os.Exit(3)
		case "exit well":
			os.Exit(0)
		case "hang up":
			for fd := 3; fd < 100; fd++ {
				_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
			}
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "panic":
			go panic("in a goroutine")
		}
		forever()
		return 0, nil
	})
	dying := func(_ context.Context, d death) (int, error) {
		f, err := os.OpenFile(d.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := f.Write([]byte("x")); err != nil {
			return 0, err
		}
		info, err := f.Stat()
		if err == nil && info.Size() <= int64(d.Times) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			forever()
		}
		return int(info.Size()), err
	}
	worker.Handle(s, die, dying)
	worker.Handle(s, dieSafe, dying)
	worker.Handle(s, safePID, func(context.Context, int) (int, error) { return os.Getpid(), nil })
	worker.Handle(s, callback, func(ctx context.Context, n int) (int, error) { return double.Call(ctx, worker.Host(ctx), n) })
	worker.Handle(s, busy, func(_ context.Context, d time.Duration) (int, error) {
		n := 0
		for end := time.Now().Add(d); time.Now().Before(end); n++ {
		}
		return n, nil
	})
	worker.Handle(s, sleep, func(_ context.Context, d time.Duration) (int, error) {
		happened("sleep.begin")
		time.Sleep(d)
		happened("sleep.end")
		return 1, nil
	})
	worker.Handle(s, pid, func(context.Context, int) (pids, error) {
		p := pids{PID: os.Getpid(), Parent: os.Getppid(), Startup: drivers.Startup() != nil, Goroutines: runtime.NumGoroutine()}
		_, inEnv := os.LookupEnv(drivers.StartupEnv)
		out, err := exec.Command("/bin/sh", "-c", "echo $"+drivers.StartupEnv).Output()
		p.Env = inEnv || err != nil || strings.TrimSpace(string(out)) != ""
		_ = drivers.Startup().Data(&p.Data) // only one test passes data
		p.Driver = drivers.Startup().Driver
		return p, nil
	})
	servePlaces(s, happened)
	servePipelines(s)
	serveFlows(s)
	serveCallGated(s)
	handleStreams(s)
	handleToldBack(s)
	handleStreamBenchmarks(s)
	serveStreamFlows(s)
	serveBuffers(s)
	serveState(s)
	serveFiles(s)
	serveAllocs(s)
	serveTopics(s)
}

// client is what the tests need of a worker.Client of any driver.
type client interface {
	ipc.Caller
	worker.Registrar
	PID() int
	Capabilities() drivers.Capabilities
	Active() bool
	Connected() bool
	LateResponses() uint64
	Forgotten() uint64
	Close() error
}

// spawner starts the test worker with one driver.
type spawner struct {
	name  string
	spawn func(ctx context.Context, cmd *exec.Cmd, opts ...worker.Option) (client, error)
}

func spawnerFor[C drivers.Channel](name string, d drivers.Driver[C]) spawner {
	return spawner{name, func(ctx context.Context, cmd *exec.Cmd, opts ...worker.Option) (client, error) {
		// A loaded machine takes its time, the more so with the race detector.
		opts = append([]worker.Option{worker.WithStartTimeout(time.Minute)}, opts...)
		c, err := worker.Spawn(ctx, cmd, d, opts...)
		if err != nil {
			return nil, err
		}
		return c, nil
	}}
}

// start starts the test worker, which is closed with the test.
func (s spawner) start(t testing.TB, opts ...worker.Option) client {
	t.Helper()
	w, err := s.spawn(context.Background(), worker.Self("test"), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// spawners are the drivers, and options that change how they work.
var spawners = []spawner{
	spawnerFor("shm", shm.Driver{}),
	spawnerFor("shm-spin", shm.Driver{Wait: shm.Spin}),
	spawnerFor("shm-park", shm.Driver{Wait: shm.Park, RingSize: 64 << 10, Prefault: true}),
	spawnerFor("socket", socket.Driver{}),
}

// eachDriver runs a test with every driver.
func eachDriver(t *testing.T, test func(t *testing.T, s spawner)) {
	for _, s := range spawners {
		t.Run(s.name, func(t *testing.T) { test(t, s) })
	}
}

// eachPlainDriver runs a slow test, in parallel, with the drivers as they are.
func eachPlainDriver(t *testing.T, test func(t *testing.T, s spawner)) {
	for _, s := range spawners {
		if s.name == "shm" || s.name == "socket" {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	}
}

// eventually waits for a condition, without a limit but the test's.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); {
		if time.Since(start) > time.Minute {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// leaves plays a scene in which a worker leaves by itself, and that returns what Close does. It plays it again where the worker was killed: the
// two seconds that it has after SIGTERM may be too short on a busy machine, but not each time.
func leaves(t testing.TB, play func() error) {
	t.Helper()
	var err error
	for range 3 {
		var exit *worker.ExitError
		if err = play(); !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL {
			break
		}
	}
	require.NoError(t, err)
}

func count(t testing.TB, w ipc.Caller, what string) int {
	t.Helper()
	n, err := events.Call(context.Background(), w, what, ipc.WithTimeout(0))
	require.NoError(t, err)
	return n
}

// beHostile links up as a worker does, and then does what argument 1 says.
func beHostile() error {
	startup, err := drivers.LoadStartup()
	if err != nil {
		return err
	}
	driver, _ := drivers.Find(startup.Driver)
	endpoint, err := driver.Open(startup, slog.Default())
	if err != nil {
		return err
	}
	link, err := endpoint.Accept(context.Background(), drivers.Hello{Codec: startup.Codec, MaxMessage: startup.MaxMessage})
	if err != nil {
		return err
	}
	switch os.Args[1] {
	case "forge":
		_ = link.Send(context.Background(), &drivers.Frame{Kind: 15})
	case "ping": // and do not read the pongs
		for range 100_000 {
			_ = link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindPing})
		}
		fmt.Fprintln(os.Stderr, "pinged")
	}
	forever()
	return nil
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
