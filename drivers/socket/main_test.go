//go:build linux

package socket_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// The environment tells a helper process what to be.
const (
	modeEnv     = "SOCKET_TEST_MODE"
	argEnv      = "SOCKET_TEST_ARG"
	testTimeout = 2 * time.Minute
)

func TestMain(m *testing.M) {
	if s := drivers.Startup(); s != nil {
		if os.Getenv(modeEnv) == "" {
			drivertest.Main(m) // a worker of the conformance suite
		}
		os.Exit(workerMain(s, os.Getenv(modeEnv), os.Getenv(argEnv)))
	}
	if mode := os.Getenv(modeEnv); mode != "" {
		os.Exit(helperMain(mode, os.Getenv(argEnv)))
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	tmp, err := os.MkdirTemp("", "ts-*")
	if err != nil {
		panic(err)
	}
	os.Setenv("TMPDIR", tmp)
	os.Unsetenv("XDG_RUNTIME_DIR")
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the processes that the tests start
	before := openFiles()
	code := drivertest.Quiet(m.Run)()
	if code == 0 {
		code = leftovers(tmp, before)
	}
	os.RemoveAll(tmp)
	os.Exit(code)
}

// leftovers fails the run if it has left anything behind.
func leftovers(tmp string, before map[string]int) int {
	code := 0
	fail := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "left behind: "+format+"\n", args...)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fail("goroutines: %v", err)
	}
	for kind, n := range openFiles() {
		if n > before[kind] {
			fail("%d descriptors of kind %s, %d before", n, kind, before[kind])
		}
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		fail("a child process: %d, %v", pid, err)
	}
	if files, _ := filepath.Glob(filepath.Join(tmp, "*")); len(files) > 0 {
		fail("files: %v", files)
	}
	return code
}

// openFiles counts descriptors by kind. The runtime's own come and stay.
func openFiles() map[string]int {
	kinds := make(map[string]int)
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.Contains(target, "[event") || strings.HasPrefix(target, "/proc/") {
			continue
		}
		kind, _, _ := strings.Cut(target, "[")
		kinds[kind]++
	}
	return kinds
}

// Methods of the echo worker.
const (
	methodEcho = 1 + iota
	methodSink // takes the frame and says nothing
	methodCount
)

func workerMain(s *drivers.StartupData, mode, arg string) int {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	ctx, cancel := context.WithTimeout(context.Background(), 3*testTimeout)
	defer cancel()
	switch mode {
	case "umask":
		umask, err := strconv.ParseInt(arg, 8, 0)
		if err != nil {
			return fatal(err)
		}
		syscall.Umask(int(umask))
		return echoWorker(ctx, s, drivers.Hello{Codec: s.Codec, MaxMessage: s.MaxMessage, Window: drivers.DefaultWindow})
	case "echo":
		return echoWorker(ctx, s, drivers.Hello{Codec: s.Codec, MaxMessage: s.MaxMessage, Window: drivers.DefaultWindow})
	case "once": // ends when its host goes, and tells a file why
		signal.Ignore(syscall.SIGTERM)
		a, _ := drivers.Find(s.Driver)
		e, err := a.Open(s, slog.Default())
		if err != nil {
			return fatal(err)
		}
		defer e.Close()
		l, err := e.Accept(ctx, drivers.Hello{Codec: s.Codec})
		if err != nil {
			return fatal(err)
		}
		err = echo(ctx, l)
		l.Close()
		if err := os.WriteFile(arg+".part", []byte(fmt.Sprint(errors.Is(err, ipc.ErrDisconnected), " ", err)), 0o600); err != nil {
			return fatal(err)
		}
		if err := os.Rename(arg+".part", arg); err != nil {
			return fatal(err)
		}
		return 0
	case "one": // serves one link, closes its endpoint and lives on
		a, _ := drivers.Find(s.Driver)
		e, err := a.Open(s, slog.Default())
		if err != nil {
			return fatal(err)
		}
		l, err := e.Accept(ctx, drivers.Hello{Codec: s.Codec, MaxMessage: s.MaxMessage, Window: drivers.DefaultWindow})
		if err != nil {
			return fatal(err)
		}
		_ = echo(ctx, l)
		l.Close()
		e.Close()
		time.Sleep(3 * testTimeout)
		return 0
	case "codec":
		return echoWorker(ctx, s, drivers.Hello{Codec: "json"})
	case "hello", "bytes": // speaks by hand: "layout", "version", "driver", or bytes after a good hello
		conn, err := process.Control(s)
		if err != nil {
			return fatal(err)
		}
		defer conn.Close()
		h := process.Hello(drivers.Hello{Codec: s.Codec, MaxMessage: s.MaxMessage, Window: drivers.DefaultWindow}, "socket", 1)
		switch arg {
		case "layout":
			h.Layout = 99
		case "version":
			h.Protocol = 99
		case "driver":
			h.Driver = "carrier pigeon"
		case "small":
			h.MaxMessage = 8 << 10
		}
		b, err := drivers.AppendHello(nil, h)
		if err != nil {
			return fatal(err)
		}
		if mode == "bytes" {
			raw, err := hex.DecodeString(arg)
			if err != nil {
				return fatal(err)
			}
			b = append(b, raw...)
		}
		if _, err := conn.Write(b); err != nil {
			return fatal(err)
		}
		if mode == "bytes" {
			// Read it all, so that the end is an end of file and no reset.
			_, _ = drivers.ReadHello(conn)
			return 0
		}
		remote, err := drivers.ReadHello(conn)
		if err == nil {
			err = drivers.Agree(h, remote)
		}
		if err == nil {
			time.Sleep(3 * testTimeout)
		}
		return fatal(err)
	case "plain":
		size, err := strconv.Atoi(arg)
		if err != nil {
			return fatal(err)
		}
		return plainEcho(s, size)
	case "exit":
		fmt.Fprintln(os.Stderr, "the disk is on fire")
		return 7
	case "silent":
		fmt.Println("I run")
		time.Sleep(3 * testTimeout)
		return 0
	}
	return fatal(fmt.Errorf("unknown mode %q", mode))
}

func fatal(err error) int {
	fmt.Fprintln(os.Stderr, "worker:", err)
	return 1
}

// echoWorker serves one host after the other until it is killed.
func echoWorker(ctx context.Context, s *drivers.StartupData, local drivers.Hello) int {
	a, ok := drivers.Find(s.Driver)
	if !ok {
		return fatal(fmt.Errorf("no driver %q", s.Driver))
	}
	e, err := a.Open(s, slog.Default())
	if err != nil {
		return fatal(err)
	}
	defer e.Close()
	for {
		l, err := e.Accept(ctx, local)
		if err != nil {
			return fatal(err)
		}
		err = echo(ctx, l)
		fmt.Fprintln(os.Stderr, "link ended:", err)
		l.Close()
	}
}

// counted is what methodSink has taken, over all links.
var counted uint64

func echo(ctx context.Context, l drivers.Link) error {
	for {
		f, err := next(ctx, l)
		if err != nil {
			return err
		}
		f.Kind = drivers.KindResponse
		switch f.Method {
		case methodSink:
			counted++
			continue
		case methodCount:
			f.Tx = counted
			counted = 0
		}
		// The host may be gone; what it has sent is served all the same.
		if err := l.Send(ctx, &f); err != nil && !errors.Is(err, ipc.ErrDisconnected) {
			return err
		}
	}
}

// next waits for a frame as an engine does.
func next(ctx context.Context, l drivers.Link) (drivers.Frame, error) {
	f, ok, err := socket.Look(l)
	if ok || err != nil {
		return f, err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, l.Wake)
		defer stop()
	}
	for {
		if f, ok, err := socket.Look(l); ok || err != nil {
			return f, err
		}
		if err := ctx.Err(); err != nil {
			return drivers.Frame{}, err
		}
		if l.Spin() {
			continue
		}
		l.Arm()
		if !l.Ready() {
			if ctx.Done() == nil {
				l.Sleep(never)
			} else {
				l.Sleep(func() bool { return ctx.Err() != nil })
			}
		}
		l.Disarm()
	}
}

func never() bool { return false }

// command returns the command of a worker in this mode.
func command(_ testing.TB, mode, arg string) *drivers.Command {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(exe)
	cmd.WaitDelay = time.Minute // what it has said is read, however busy the machine is
	cmd.Env = append(os.Environ(), modeEnv+"="+mode, argEnv+"="+arg)
	return &drivers.Command{Cmd: cmd, Startup: drivers.StartupData{
		Protocol: drivers.ProtocolVersion, Codec: "cbor", HostPID: os.Getpid(), Timeouts: drivers.DefaultTimeouts(),
	}}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// host is a channel with its present link.
type host struct {
	*socket.Channel
	t     testing.TB
	ctx   context.Context
	links []drivers.Link
}

// spawn starts a worker that ends with the test.
func spawn(t testing.TB, d socket.Driver, mode, arg string) *host {
	ctx := testContext(t)
	ch, err := d.Spawn(ctx, command(t, mode, arg))
	require.NoError(t, err)
	h := &host{Channel: ch, t: t, ctx: ctx}
	ch.Links(func(l drivers.Link) { h.links = append(h.links, l) })
	t.Cleanup(func() {
		for _, l := range h.links {
			require.NoError(t, l.Close())
		}
		_ = ch.Process().Signal(syscall.SIGCONT)
		h.kill()
		require.NoError(t, ch.Close())
	})
	return h
}

func (h *host) link() drivers.Link { return h.links[len(h.links)-1] }

func (h *host) kill() {
	_ = h.Process().Signal(syscall.SIGKILL)
	<-h.Process().Done()
}

func (h *host) send(method, tx uint64, payload []byte) {
	require.NoError(h.t, h.link().Send(h.ctx, &drivers.Frame{Kind: drivers.KindRequest, Method: method, Tx: tx, Payload: payload}))
}

func (h *host) recv() drivers.Frame {
	f, err := next(h.ctx, h.link())
	require.NoError(h.t, err)
	return f
}

// stop stops the worker, and returns when all of its threads stand still: one
// that is in the system when the signal comes first ends what it does there.
func (h *host) stop() {
	h.t.Helper()
	require.NoError(h.t, h.Process().Signal(syscall.SIGSTOP))
	eventually(h.t, "the worker stops", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", h.Process().PID()))
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			if err != nil || !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return len(tasks) > 0
	})
}

// works checks that a frame comes back.
func (h *host) works() {
	h.t.Helper()
	h.send(methodEcho, 42, []byte("are you there"))
	f := h.recv()
	require.Equal(h.t, uint64(42), f.Tx)
	require.Equal(h.t, "are you there", string(f.Payload))
}

// eventually waits for a condition that another process brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, testTimeout, time.Millisecond, what)
}

func tmpFiles(t testing.TB) []string {
	files, err := filepath.Glob(filepath.Join(os.TempDir(), "tandem-*"))
	require.NoError(t, err)
	return files
}
