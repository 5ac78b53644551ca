//go:build unix

package worker_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const (
	longest = time.Duration(math.MaxInt64)
	soon    = 30 * time.Millisecond
	late    = 1200 * time.Millisecond // what is over after a second does not last so long
)

// extreme is an option with a value at the end of its type, and what becomes of a worker that is started with it.
type extreme struct {
	name   string
	option func() worker.Option // panics if the value is refused
	effect func(t *testing.T, w client)
	start  string // the error of the start, if it is to fail
}

// What effects show.
var (
	lasts   = func(t *testing.T, w client) { answersAfter(t, w, late) }
	answers = func(t *testing.T, w client) { answersAfter(t, w, soon) }
	streams = func(t *testing.T, w client) {
		st, err := echoes.Open(t.Context(), w)
		require.NoError(t, err)
		for _, n := range []int{0, 100, 10_000, 1 << 20} { // there and back
			require.NoError(t, st.Send(t.Context(), make([]byte, n)))
			b, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Len(t, b, n)
		}
		next := 0
		for i, err := range numbers.Stream(t.Context(), w, counting{N: 50_000}) {
			require.NoError(t, err)
			require.Equal(t, next, i)
			next++
		}
		require.Equal(t, 50_000, next)
		require.NoError(t, st.CloseSend(t.Context()))
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		require.NoError(t, w.Close())
	}
	timesOut = func(t *testing.T, w client) {
		_, err := sleep.Call(t.Context(), w, late)
		var timeout *ipc.TimeoutError
		require.ErrorAs(t, err, &timeout)
		_, err = sleep.Call(t.Context(), w, soon, ipc.WithTimeout(longest))
		require.NoError(t, err, "a call can choose otherwise")
		require.NoError(t, w.Close())
	}
	closesAfterCalls = func(t *testing.T, w client) {
		f, err := sleep.Go(t.Context(), w, late)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		_, err = f.Wait(t.Context())
		require.NoError(t, err, "Close has waited for it")
	}
	closesAtOnce = func(t *testing.T, w client) {
		f, err := block.Go(t.Context(), w, t.Name())
		require.NoError(t, err)
		_ = w.Close()
		_, err = f.Wait(t.Context())
		require.ErrorIs(t, err, ipc.ErrClosed)
	}
	comesBack = func(t *testing.T, w client) {
		before := w.PID()
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		eventually(t, "another process answers", func() bool {
			who, err := pid.Call(t.Context(), w, 0)
			return err == nil && who.PID != before
		})
		require.NoError(t, w.Close())
	}
	staysAway = func(t *testing.T, w client) {
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		_, err := sleep.Call(t.Context(), w, 0, ipc.WithTimeout(late))
		require.Error(t, err, "the pause before the next process has not ended")
		_ = w.Close()
	}
	triesAgain = func(t *testing.T, w client) {
		file := filepath.Join(t.TempDir(), "times")
		n, err := dieSafe.Call(t.Context(), w, death{File: file, Times: 3})
		require.NoError(t, err)
		require.Equal(t, 4, n)
		require.NoError(t, w.Close())
	}
	triesOnce = func(t *testing.T, w client) {
		_, err := dieSafe.Call(t.Context(), w, death{File: filepath.Join(t.TempDir(), "times"), Times: 1})
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		_ = w.Close()
	}
)

func answersAfter(t *testing.T, w client, d time.Duration) {
	_, err := sleep.Call(t.Context(), w, d)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// quickly starts workers again at once, however often.
var quickly = worker.WithRestart(worker.Restart{Delay: 1, MaxDelay: 1, MaxRestarts: -1})

func both(a, b worker.Option) worker.Option {
	return func(s *worker.Settings) { a(s); b(s) }
}

func extremes() []extreme {
	var all []extreme
	add := func(name string, effect func(*testing.T, client), start string, options ...func() worker.Option) {
		for _, o := range options {
			all = append(all, extreme{name, o, effect, start})
		}
	}
	refuse := func(name string, options ...func() worker.Option) { add(name, nil, "", options...) }
	for name, with := range map[string]func(time.Duration) worker.Option{
		"WithStartTimeout": worker.WithStartTimeout, "WithHostTimeout": worker.WithHostTimeout,
		"WithCallTimeout": worker.WithCallTimeout, "WithGrace": worker.WithGrace,
	} {
		of := func(d time.Duration) func() worker.Option { return func() worker.Option { return with(d) } }
		refuse(name, of(-1), of(math.MinInt64), of(math.MinInt64+1))
		if name == "WithGrace" {
			add(name, closesAfterCalls, "", of(longest), of(longest-1))
			add(name, closesAtOnce, "", of(0), of(1))
			continue
		}
		add(name, lasts, "", of(0), of(longest), of(longest-1))
		switch name {
		case "WithStartTimeout":
			add(name, nil, "took longer than 1ns", of(1))
		case "WithCallTimeout":
			add(name, timesOut, "", of(1))
		}
	}
	message := func(n int) func() worker.Option { return func() worker.Option { return worker.WithMaxMessage(n) } }
	refuse("WithMaxMessage", message(0), message(-1), message(math.MinInt), message(math.MaxInt), message(drivers.MinMaxMessage-1), message(drivers.MaxMaxMessage+1))
	add("WithMaxMessage", answers, "", message(drivers.MinMaxMessage), message(drivers.MaxMaxMessage), message(drivers.MaxMaxMessage-1))

	window := func(n int) func() worker.Option { return func() worker.Option { return worker.WithWindow(n) } }
	refuse("WithWindow", window(0), window(-1), window(math.MinInt), window(drivers.MinWindow-1), window(drivers.MaxWindow+1), window(math.MaxInt))
	add("WithWindow", answers, "", window(drivers.MinWindow), window(drivers.MinWindow+1), window(drivers.MaxWindow-1), window(drivers.MaxWindow))

	streamWindow := func(n int) func() worker.Option { return func() worker.Option { return worker.WithStreamWindow(n) } }
	refuse("WithStreamWindow", streamWindow(0), streamWindow(-1), streamWindow(math.MinInt), streamWindow(drivers.InitialStreamWindow-1), streamWindow(drivers.MaxStreamWindow+1), streamWindow(math.MaxInt))
	add("WithStreamWindow", streams, "", streamWindow(drivers.InitialStreamWindow), streamWindow(drivers.InitialStreamWindow+1), streamWindow(drivers.MaxStreamWindow-1), streamWindow(drivers.MaxStreamWindow))

	beat := func(interval, timeout time.Duration) func() worker.Option {
		return func() worker.Option { return worker.WithHeartbeat(interval, timeout) }
	}
	refuse("WithHeartbeat", beat(0, 1), beat(1, 0), beat(-1, longest), beat(longest, math.MinInt64))
	add("WithHeartbeat", lasts, "", beat(longest, longest), beat(longest-1, longest-1), beat(longest, 1), beat(time.Millisecond, longest), beat(1, longest))

	restart := func(r worker.Restart) func() worker.Option {
		return func() worker.Option { return worker.WithRestart(r) }
	}
	refuse("WithRestart", restart(worker.Restart{Delay: -1}), restart(worker.Restart{MaxDelay: math.MinInt64}), restart(worker.Restart{Interval: -1}))
	add("WithRestart", comesBack, "", restart(worker.Restart{}), restart(worker.Restart{Delay: 1, MaxDelay: 1, MaxRestarts: 1, Interval: 1}),
		restart(worker.Restart{Delay: 1, MaxDelay: longest, MaxRestarts: math.MaxInt, Interval: longest}),
		restart(worker.Restart{Delay: longest, MaxDelay: 1, MaxRestarts: math.MinInt, Interval: longest - 1}))
	add("WithRestart", staysAway, "", restart(worker.Restart{Delay: longest, MaxDelay: longest}), restart(worker.Restart{Delay: longest - 1, MaxDelay: longest - 1, MaxRestarts: math.MaxInt}))

	for name, with := range map[string]func(int) worker.Option{"WithRetry": worker.WithRetry, "WithRetryAll": worker.WithRetryAll} {
		of := func(n int) func() worker.Option { return func() worker.Option { return both(with(n), quickly) } }
		refuse(name, of(0), of(-1), of(math.MinInt))
		add(name, triesOnce, "", of(1))
		add(name, triesAgain, "", of(4), of(math.MaxInt), of(math.MaxInt-1))
	}
	resume := func(n int) func() worker.Option { return func() worker.Option { return worker.WithResume(n) } }
	refuse("WithResume", resume(0), resume(-1), resume(math.MinInt))
	add("WithResume", answers, "", resume(1), resume(math.MaxInt), resume(math.MaxInt-1))

	memory := func(n int64) func() worker.Option { return func() worker.Option { return worker.WithMaxMemory(n) } }
	refuse("WithMaxMemory", memory(0), memory(-1), memory(math.MinInt64))
	add("WithMaxMemory", answers, "", memory(math.MaxInt64), memory(math.MaxInt64-1))
	cpus := func(n int) func() worker.Option { return func() worker.Option { return worker.WithMaxCPU(n) } }
	refuse("WithMaxCPU", cpus(0), cpus(-1), cpus(math.MinInt))
	add("WithMaxCPU", answers, "", cpus(1), cpus(math.MaxInt), cpus(math.MaxInt-1), cpus(math.MaxInt32))
	files := func(n int) func() worker.Option { return func() worker.Option { return worker.WithMaxFiles(n) } }
	refuse("WithMaxFiles", files(0), files(-1), files(math.MinInt))
	if runtime.GOOS == "linux" {
		add("WithMaxFiles", nil, "open files", files(math.MaxInt))
	}
	return all
}

// An option at the end of its type is refused where it is given, or does what it says: a long time is not
// over after a second, and nothing overflows.
func TestOptionsAtTheEndsOfTheirTypes(t *testing.T) {
	all := extremes()
	for _, name := range numberedOptions(t) {
		found := false
		for _, e := range all {
			found = found || e.name == name
		}
		require.True(t, found, "the table lacks %s", name)
	}
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, e := range all {
			t.Run(e.name, func(t *testing.T) {
				t.Parallel()
				if e.effect == nil && e.start == "" {
					require.Panics(t, func() { e.option() })
					return
				}
				w, err := s.spawn(t.Context(), worker.Self("test"), e.option())
				switch {
				case e.start != "":
					require.ErrorContains(t, err, e.start)
				case e.name == "WithResume" && s.name == "shm":
					require.ErrorIs(t, err, ipc.ErrUnsupported)
				default:
					require.NoError(t, err)
					t.Cleanup(func() { w.Close() })
					e.effect(t, w)
				}
			})
		}
	})
}

// numberedOptions returns the options of clients, from the source, that take numbers or times.
func numberedOptions(t *testing.T) (names []string) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "With") || fn.Type.Results == nil {
				continue
			}
			if result, ok := fn.Type.Results.List[0].Type.(*ast.Ident); !ok || result.Name != "Option" {
				continue
			}
			for _, p := range fn.Type.Params.List {
				text := new(strings.Builder)
				ast.Inspect(p.Type, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						text.WriteString(id.Name)
					}
					return true
				})
				switch text.String() {
				case "int", "int64", "timeDuration", "Restart":
					names = append(names, fn.Name.Name)
				}
			}
		}
	}
	require.Greater(t, len(names), 8)
	return names
}

// So many runs of a handler at a time as there are integers are as many as come.
func TestConcurrencyAtTheEndsOfItsType(t *testing.T) {
	for _, n := range []int{0, -1, math.MinInt} {
		require.Panics(t, func() { worker.WithConcurrency(n) })
	}
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, n := range []int{1, math.MaxInt, math.MaxInt - 1} {
			w := s.start(t)
			worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil }, worker.WithConcurrency(n))
			for range 3 {
				got, err := callback.Call(t.Context(), w, 21)
				require.NoError(t, err)
				require.Equal(t, 42, got)
			}
		}
	})
}

// The options of methods and calls, at the ends of their types.
func TestCallOptionsAtTheEndsOfTheirTypes(t *testing.T) {
	for _, misuse := range []func(){
		func() { ipc.WithTimeout(-1) }, func() { ipc.WithTimeout(math.MinInt64) },
		func() { ipc.WithAttempts(0) }, func() { ipc.WithAttempts(-1) }, func() { ipc.WithAttempts(math.MinInt) },
	} {
		require.Panics(t, misuse)
	}
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, quickly, worker.WithCallTimeout(1))
		var timeout *ipc.TimeoutError
		_, err := sleep.Call(t.Context(), w, soon, ipc.WithTimeout(1))
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, time.Duration(1), timeout.After)
		for _, d := range []time.Duration{0, longest, longest - 1} {
			calls := make([]*ipc.Future[int], 3)
			for i := range calls {
				calls[i], err = sleep.Go(t.Context(), w, late, ipc.WithTimeout(d))
				require.NoError(t, err)
			}
			require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
				return notify.Notify(t.Context(), c, "x", ipc.WithTimeout(d))
			}))
			for _, f := range calls {
				_, err = f.Wait(t.Context())
				require.NoError(t, err, "%v", d)
			}
		}
		for attempts, times := range map[int]int{1: 0, 3: 2, math.MaxInt: 3, math.MaxInt - 1: 3} {
			n, err := dieSafe.Call(t.Context(), w, death{File: filepath.Join(t.TempDir(), "times"), Times: times}, ipc.WithAttempts(attempts), ipc.WithTimeout(longest))
			require.NoError(t, err, "%d attempts", attempts)
			require.Equal(t, times+1, n)
		}
		_, err = dieSafe.Call(t.Context(), w, death{File: filepath.Join(t.TempDir(), "times"), Times: 1}, ipc.WithAttempts(1), ipc.WithTimeout(longest))
		require.ErrorIs(t, err, ipc.ErrPeerGone)
	})
}
