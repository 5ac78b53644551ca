//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The contract of the worker of these tests.
var (
	hold        = ipc.NewMethod[string, string]("resume.hold")                        // until it is released, or its context ends
	release     = ipc.NewMethod[string, int]("resume.release")                        // of that name
	holdRaw     = ipc.NewMethod[[]byte, []byte]("resume.raw", ipc.WithCodec(ipc.Raw)) // hold, in place
	number      = ipc.NewMethod[int, int]("resume.number")                            // returns its request after a moment
	quick       = ipc.NewMethod[int, int]("resume.quick")                             // returns its request
	ran         = ipc.NewMethod[int, []int]("resume.ran")                             // the numbers that number and quick were called with
	holdNow     = ipc.NewMethod[string, holdState]("resume.state")                    // of hold
	blob        = ipc.NewMethod[holdBlob, []byte]("resume.blob")                      // hold, and then so many bytes
	dropped     = ipc.NewMethod[int, int]("resume.dropped")                           // answers
	cut         = ipc.NewMethod[int, int]("resume.cut")                               // the worker ends its link
	announce    = ipc.NewMethod[int, int]("resume.announce")                          // notifies the host
	heard       = ipc.NewMethod[int, struct{}]("resume.heard")                        // the host's
	markDropped = ipc.NewMethod[string, struct{}]("resume.mark")                      // makes a file when an answer was dropped
	finish      = ipc.NewMethod[int, int]("resume.finish")                            // exits
)

type holdState struct{ Begun, Ended, Canceled int }

type holdBlob struct {
	Name string
	Size int
}

func init() { worker.Main("resume", serveResume) }

func serveResume() error {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	s := worker.NewServer()
	var mu sync.Mutex
	states := make(map[string]*holdState)
	gates := make(map[string]chan struct{})
	gate := func(name string) (*holdState, chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		if states[name] == nil {
			states[name], gates[name] = new(holdState), make(chan struct{})
		}
		return states[name], gates[name]
	}
	wait := func(ctx context.Context, name string) error {
		st, open := gate(name)
		mu.Lock()
		st.Begun++
		mu.Unlock()
		var err error
		select {
		case <-open:
		case <-ctx.Done():
			err = ctx.Err()
		}
		mu.Lock()
		st.Ended++
		if err != nil {
			st.Canceled++
		}
		mu.Unlock()
		return err
	}
	worker.Handle(s, hold, func(ctx context.Context, name string) (string, error) {
		err := wait(ctx, name)
		if len(ipc.MetadataOf(ctx)) > 0 {
			return name, errors.Join(err, answerWith(ctx))
		}
		return name, err
	})
	worker.Handle(s, blob, func(ctx context.Context, b holdBlob) ([]byte, error) {
		return make([]byte, b.Size), wait(ctx, b.Name)
	})
	worker.HandleInPlace(s, holdRaw, func(ctx context.Context, call worker.InPlace) error {
		err := wait(ctx, "raw")
		call.Reply(call.Request())
		return err
	}, worker.WithInline())
	worker.Handle(s, release, func(_ context.Context, name string) (int, error) {
		_, open := gate(name)
		close(open)
		return 0, nil
	})
	worker.Handle(s, holdNow, func(_ context.Context, name string) (holdState, error) {
		st, _ := gate(name)
		mu.Lock()
		defer mu.Unlock()
		return *st, nil
	})
	var numbers []int
	worker.Handle(s, number, func(_ context.Context, n int) (int, error) {
		mu.Lock()
		numbers = append(numbers, n)
		mu.Unlock()
		time.Sleep(time.Duration(n%5) * time.Millisecond)
		return n, nil
	})
	worker.Handle(s, quick, func(_ context.Context, n int) (int, error) {
		mu.Lock()
		numbers = append(numbers, n)
		mu.Unlock()
		return n, nil
	}, worker.WithInline())
	worker.Handle(s, ran, func(context.Context, int) ([]int, error) {
		mu.Lock()
		defer mu.Unlock()
		return numbers, nil
	})
	worker.Handle(s, dropped, func(context.Context, int) (int, error) { return int(s.Dropped()), nil })
	worker.Handle(s, markDropped, func(_ context.Context, path string) (struct{}, error) {
		for s.Dropped() == 0 {
			time.Sleep(time.Millisecond)
		}
		return struct{}{}, os.WriteFile(path, nil, 0o600)
	})
	worker.Handle(s, cut, func(context.Context, int) (int, error) { return 0, cutLinks() })
	worker.Handle(s, callback, func(ctx context.Context, n int) (int, error) { return double.Call(ctx, worker.Host(ctx), n) })
	worker.Handle(s, announce, func(ctx context.Context, n int) (int, error) {
		return n, heard.Notify(ctx, worker.Host(ctx), n)
	})
	worker.Handle(s, finish, func(context.Context, int) (int, error) { os.Exit(5); return 0, nil })
	return s.Serve(context.Background())
}

// cutLinks shuts down this process's connected Unix stream sockets.
func cutLinks() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		domain, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, 39) // SO_DOMAIN
		typ, _ := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
		if err != nil || domain != syscall.AF_UNIX || typ != syscall.SOCK_STREAM {
			continue
		}
		if listens, _ := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); listens == 0 {
			_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
		}
	}
	return nil
}

func startResume(t *testing.T, d socket.Driver, opts ...worker.Option) *worker.Client[*socket.Channel] {
	t.Helper()
	w, err := worker.Spawn(t.Context(), worker.Self("resume"), d, append([]worker.Option{worker.WithGrace(100 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

func holding(t *testing.T, w ipc.Caller, name string) holdState {
	t.Helper()
	st, err := holdNow.Call(context.Background(), w, name)
	require.NoError(t, err)
	return st
}

// beginHold calls hold and returns when its handler runs.
func beginHold(t *testing.T, ctx context.Context, w ipc.Caller, name string, opts ...ipc.CallOption) chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		got, err := hold.Call(ctx, w, name, opts...)
		if err == nil && got != name {
			err = fmt.Errorf("got the answer %q, want %q", got, name)
		}
		result <- err
	}()
	eventually(t, "in the handler", func() bool { return holding(t, w, name).Begun == 1 })
	return result
}

func flip(t *testing.T, w *worker.Client[*socket.Channel]) {
	t.Helper()
	require.NoError(t, w.Channel().Disconnect())
	require.NoError(t, w.Channel().Reconnect(t.Context()))
}

// A hundred times: pending calls end, and then calls, callbacks and notifications
// work again.
func TestReconnectRestoresEverything(t *testing.T) {
	w := startResume(t, socket.Driver{})
	worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	notes := make(chan int, 1)
	worker.Handle(w, heard, func(_ context.Context, n int) (struct{}, error) { notes <- n; return struct{}{}, nil })
	for i := range 100 {
		name := strconv.Itoa(i)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, err := hold.Call(context.Background(), w, name)
				assert.ErrorIs(t, err, ipc.ErrDisconnected)
				assert.NotErrorIs(t, err, ipc.ErrPeerGone)
			})
		}
		eventually(t, "4 calls are pending", func() bool { return holding(t, w, name).Begun == 4 })
		require.NoError(t, w.Channel().Disconnect())
		wg.Wait()
		_, err := number.Call(t.Context(), w, i)
		require.ErrorIs(t, err, ipc.ErrDisconnected, "at once, while there is no link")
		require.NoError(t, w.Channel().Reconnect(t.Context()))
		got, err := callback.Call(t.Context(), w, i)
		require.NoError(t, err)
		require.Equal(t, 2*i, got)
		_, err = announce.Call(t.Context(), w, i)
		require.NoError(t, err)
		require.Equal(t, i, <-notes)
	}
}

// Handlers go on when the link is disconnected, and their answers are counted.
func TestHandlersOutliveTheLink(t *testing.T) {
	w := startResume(t, socket.Driver{})
	result := beginHold(t, context.Background(), w, "a")
	flip(t, w)
	require.ErrorIs(t, <-result, ipc.ErrDisconnected)
	require.Equal(t, holdState{Begun: 1}, holding(t, w, "a"), "its context has not ended")
	n, err := dropped.Call(t.Context(), w, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = release.Call(t.Context(), w, "a")
	require.NoError(t, err)
	eventually(t, "the answer is dropped", func() bool {
		n, err := dropped.Call(t.Context(), w, 0)
		return err == nil && n == 1
	})
	require.Equal(t, holdState{Begun: 1, Ended: 1}, holding(t, w, "a"))
}

// The contexts of handlers whose link has gone end with the worker.
func TestHandlersOfOldLinksEndWithTheWorker(t *testing.T) {
	w := startResume(t, socket.Driver{})
	result := beginHold(t, context.Background(), w, "a")
	flip(t, w)
	require.ErrorIs(t, <-result, ipc.ErrDisconnected)
	require.NoError(t, w.Close(), "its context ended, or it would have been killed")
}

// So they do when it is over how long the worker waits for a host.
func TestHandlersOfOldLinksEndByTheHostTimeout(t *testing.T) {
	t.Parallel()
	w := startResume(t, socket.Driver{}, worker.WithHostTimeout(10*time.Second)) // which bounds the start, too
	result := beginHold(t, context.Background(), w, "a")
	require.NoError(t, w.Channel().Disconnect())
	require.ErrorIs(t, <-result, ipc.ErrDisconnected)
	<-w.Channel().Process().Done()
	require.Contains(t, w.Channel().Process().Stderr(), "waiting for the host took longer than 10s")
}

func TestResume(t *testing.T) {
	w := startResume(t, socket.Driver{}, worker.WithResume(1<<20))
	a := beginHold(t, context.Background(), w, "a")
	b := beginHold(t, context.Background(), w, "b")
	c := beginHold(t, context.Background(), w, "c")
	flip(t, w)
	_, err := release.Call(t.Context(), w, "a")
	require.NoError(t, err)
	require.NoError(t, <-a, "the answer goes to the new link")
	for range 5 {
		flip(t, w) // whether or not the pending ones have asked again yet
	}
	_, err = release.Call(t.Context(), w, "b")
	require.NoError(t, err)
	require.NoError(t, <-b)
	require.Empty(t, c)
	require.Equal(t, holdState{Begun: 1}, holding(t, w, "c"))
	_, err = release.Call(t.Context(), w, "c")
	require.NoError(t, err)
	require.NoError(t, <-c)
	n, err := dropped.Call(t.Context(), w, 0)
	require.NoError(t, err)
	require.Zero(t, n)
}

// A handler in place that the reader runs keeps its request, and its answer is kept.
func TestResumeInPlace(t *testing.T) {
	w := startResume(t, socket.Driver{}, worker.WithResume(1<<20))
	request := []byte("what lies in the link's memory")
	result := make(chan error, 1)
	go func() {
		got, err := holdRaw.Call(context.Background(), w, request)
		if err == nil && string(got) != string(request) {
			err = fmt.Errorf("got %q", got)
		}
		result <- err
	}()
	eventually(t, "in the handler", func() bool { return holding(t, w, "raw").Begun == 1 })
	flip(t, w)
	_, err := release.Call(t.Context(), w, "raw")
	require.NoError(t, err)
	require.NoError(t, <-result)
}

// Calls that were started belong to their link.
func TestStartedCallsAreNotResumed(t *testing.T) {
	w := startResume(t, socket.Driver{}, worker.WithResume(1<<20))
	f, err := hold.Go(t.Context(), w, "a")
	require.NoError(t, err)
	eventually(t, "in the handler", func() bool { return holding(t, w, "a").Begun == 1 })
	flip(t, w)
	_, err = f.Wait(context.Background())
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.Equal(t, holdState{Begun: 1}, holding(t, w, "a"))
	var g *ipc.Future[int]
	require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
		g, err = number.Go(t.Context(), c, 7)
		return err
	}), "the next goes over the next link")
	n, err := g.Wait(context.Background())
	require.NoError(t, err)
	require.Equal(t, 7, n)
}

// Answers that come while there is no link are kept.
func TestResumeKeepsAnswers(t *testing.T) {
	const small, large = 1000, 1 << 20
	w := startResume(t, socket.Driver{}, worker.WithResume(100<<10))
	results := make(map[int]chan error)
	for _, size := range []int{small, large} {
		results[size] = make(chan error, 1)
		go func() {
			got, err := blob.Call(context.Background(), w, holdBlob{"x", size})
			if err == nil && len(got) != size {
				err = fmt.Errorf("got %d bytes", len(got))
			}
			results[size] <- err
		}()
	}
	eventually(t, "in the handlers", func() bool { return holding(t, w, "x").Begun == 2 })
	// When the worker goes on it finds the gate open and the link gone.
	stop(t, w.PID())
	require.NoError(t, release.Notify(t.Context(), w, "x"))
	mark := t.TempDir() + "/dropped"
	require.NoError(t, markDropped.Notify(t.Context(), w, mark))
	require.NoError(t, w.Channel().Disconnect())
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
	eventually(t, "an answer is dropped", func() bool { _, err := os.Lstat(mark); return err == nil })
	require.NoError(t, w.Channel().Reconnect(t.Context()))
	require.NoError(t, <-results[small])
	require.ErrorIs(t, <-results[large], ipc.ErrDisconnected, "one that is over the limit is dropped")
	n, err := dropped.Call(t.Context(), w, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// An answer that comes over a later link has its metadata, and what is kept of it counts.
func TestResumeKeepsMetadata(t *testing.T) {
	w := startResume(t, socket.Driver{}, worker.WithResume(20<<10))
	md := ipc.Pairs("k", strings.Repeat("v", 7000)) // header and trailer are 14 KB
	var header, trailer [2]ipc.Metadata
	var results [2]chan error
	for i := range results {
		results[i] = make(chan error, 1)
		go func() {
			_, err := hold.Call(context.Background(), w, "x", ipc.WithMetadata("k", md.Get("k")), ipc.WithHeader(&header[i]), ipc.WithTrailer(&trailer[i]))
			results[i] <- err
		}()
	}
	var lateHeader ipc.Metadata
	late := beginHold(t, context.Background(), w, "y", ipc.WithMetadata("k", "late"), ipc.WithHeader(&lateHeader))
	eventually(t, "in the handlers", func() bool { return holding(t, w, "x").Begun == 2 })
	stop(t, w.PID())
	require.NoError(t, release.Notify(t.Context(), w, "x"))
	mark := t.TempDir() + "/dropped"
	require.NoError(t, markDropped.Notify(t.Context(), w, mark))
	require.NoError(t, w.Channel().Disconnect())
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
	eventually(t, "an answer is dropped", func() bool { _, err := os.Lstat(mark); return err == nil })
	require.NoError(t, w.Channel().Reconnect(t.Context()))
	kept := 0
	for i := range results {
		if err := <-results[i]; err != nil {
			require.ErrorIs(t, err, ipc.ErrDisconnected)
			continue
		}
		kept++
		require.Equal(t, md, header[i])
		require.Equal(t, md, trailer[i])
	}
	require.Equal(t, 1, kept, "there is room for one")
	_, err := release.Call(t.Context(), w, "y")
	require.NoError(t, err)
	require.NoError(t, <-late)
	require.Equal(t, ipc.Pairs("k", "late"), lateHeader)
}

// With calls under way all the time and many disconnections, each request is run
// once if its call succeeded, at most once if it did not.
func TestResumeExactlyOnce(t *testing.T) {
	for _, m := range []*ipc.Method[int, int]{number, quick} {
		t.Run(m.Info().Name, func(t *testing.T) { testResumeExactlyOnce(t, m) })
	}
}

func testResumeExactlyOnce(t *testing.T, m *ipc.Method[int, int]) {
	w := startResume(t, socket.Driver{}, worker.WithResume(1<<20))
	var next, good atomic.Int64
	var mu sync.Mutex
	outcome := make(map[int]error)
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stopped:
					return
				default:
				}
				n := int(next.Add(1))
				got, err := m.Call(context.Background(), w, n)
				if err == nil {
					assert.Equal(t, n, got)
					good.Add(1)
				} else {
					assert.ErrorIs(t, err, ipc.ErrDisconnected)
					time.Sleep(100 * time.Microsecond) // there is no link now
				}
				mu.Lock()
				outcome[n] = err
				mu.Unlock()
			}
		})
	}
	for i := range 30 {
		before := good.Load()
		eventually(t, "calls succeed", func() bool { return good.Load() > before+int64(i%3) })
		flip(t, w)
	}
	close(stopped)
	wg.Wait()
	numbers, err := ran.Call(t.Context(), w, 0)
	require.NoError(t, err)
	runs := make(map[int]int)
	for _, n := range numbers {
		runs[n]++
		require.Equal(t, 1, runs[n], "request %d was run again", n)
	}
	for n, err := range outcome {
		if err == nil {
			require.Equal(t, 1, runs[n])
		} else {
			require.Zero(t, runs[n], "request %d was run, and failed with %v", n, err)
		}
	}
}

func TestResumedCallsAreCanceled(t *testing.T) {
	w := startResume(t, socket.Driver{}, worker.WithResume(1<<20))
	ctx, cancel := context.WithCancel(context.Background())
	after := beginHold(t, ctx, w, "after")
	flip(t, w)
	// It has asked when this is done, or the cancel goes to the worker later.
	_, err := number.Call(t.Context(), w, 1)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-after, context.Canceled)
	eventually(t, "the handler's context ends", func() bool { flip(t, w); return holding(t, w, "after").Canceled == 1 })

	ctx, cancel = context.WithCancel(context.Background())
	while := beginHold(t, ctx, w, "while")
	limited := beginHold(t, context.Background(), w, "limited", ipc.WithTimeout(2*time.Second))
	require.NoError(t, w.Channel().Disconnect())
	cancel()
	require.ErrorIs(t, <-while, context.Canceled)
	err = <-limited
	var limit *ipc.TimeoutError
	require.ErrorAs(t, err, &limit)
	require.Equal(t, 2*time.Second, limit.After)
	require.NoError(t, w.Channel().Reconnect(t.Context()))
	eventually(t, "the worker learns it", func() bool {
		return holding(t, w, "while").Canceled == 1 && holding(t, w, "limited").Canceled == 1
	})
}

// What ends the waiting for a reconnect.
func TestResumeEnds(t *testing.T) {
	waiting := func(t *testing.T, d socket.Driver) (*worker.Client[*socket.Channel], chan error) {
		w := startResume(t, d, worker.WithResume(1<<20))
		result := beginHold(t, context.Background(), w, "a")
		require.NoError(t, w.Channel().Disconnect())
		return w, result
	}
	t.Run("worker dies", func(t *testing.T) {
		w, result := waiting(t, socket.Driver{})
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		var exit *worker.ExitError
		require.ErrorAs(t, <-result, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.ErrorAs(t, w.Channel().Reconnect(t.Context()), &exit, "and says so")
	})
	t.Run("close", func(t *testing.T) {
		w, result := waiting(t, socket.Driver{})
		require.NoError(t, w.Close())
		require.ErrorIs(t, <-result, ipc.ErrClosed)
	})
	t.Run("channel closed", func(t *testing.T) {
		w, result := waiting(t, socket.Driver{})
		require.NoError(t, w.Channel().Close())
		require.ErrorIs(t, <-result, ipc.ErrDisconnected)
	})
	t.Run("detach", func(t *testing.T) {
		w := startResume(t, socket.Driver{Detached: true}, worker.WithResume(1<<20))
		result := beginHold(t, context.Background(), w, "a")
		pid := w.PID()
		_, err := w.Channel().Detach()
		require.NoError(t, err)
		require.ErrorIs(t, <-result, ipc.ErrDisconnected)
		require.NoError(t, w.Close())
		require.False(t, gone(pid), "Close only frees")
		require.NoError(t, w.Channel().Process().Signal(syscall.SIGKILL))
		<-w.Channel().Process().Done()
		_, err = socket.Attach(t.Context(), w.Channel().Ref(), socket.Connect{}, nil) // which tidies up
		require.ErrorIs(t, err, socket.ErrStale)
	})
}

// A detached worker that nobody comes back to ends when its HostTimeout is over.
func TestHostTimeout(t *testing.T) {
	t.Parallel()
	w := startResume(t, socket.Driver{Detached: true, HostTimeout: 10 * time.Second}) // which bounds the start, too
	_, err := w.Channel().Detach()
	require.NoError(t, err)
	<-w.Channel().Process().Done()
	require.NoFileExists(t, w.Channel().Ref().Path)
	require.NoError(t, w.Close())
}

func TestResumeNeedsADriverThatReconnects(t *testing.T) {
	_, err := worker.Spawn(t.Context(), worker.Self("resume"), shm.Driver{}, worker.WithResume(1))
	require.ErrorIs(t, err, ipc.ErrUnsupported)
	require.ErrorContains(t, err, "not supported by driver shm, which cannot reconnect")
	require.Panics(t, func() { worker.WithResume(0) })
}

// states records what OnState is told.
type connStates struct {
	mu   sync.Mutex
	list []socket.State
}

func (s *connStates) add(st socket.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, st)
}

func (s *connStates) kinds() []socket.StateKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kinds []socket.StateKind
	for _, st := range s.list {
		kinds = append(kinds, st.Kind)
	}
	return kinds
}

func (s *connStates) last() socket.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return socket.State{}
	}
	return s.list[len(s.list)-1]
}

// The worker ends its link and lives: the channel is back by itself, and with Resume
// no call is lost.
func TestAutomaticReconnect(t *testing.T) {
	var states connStates
	w := startResume(t, socket.Driver{Connect: socket.Connect{Auto: true, OnState: states.add}}, worker.WithResume(1<<20))
	worker.Handle(w, double, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	held := beginHold(t, context.Background(), w, "a")
	for i := range 5 {
		_, err := cut.Call(t.Context(), w, 0)
		require.NoError(t, err, "its answer was kept, for it could not be sent")
		got, err := callback.Call(t.Context(), w, i)
		require.NoError(t, err)
		require.Equal(t, 2*i, got)
	}
	_, err := release.Call(t.Context(), w, "a")
	require.NoError(t, err)
	require.NoError(t, <-held)

	// What the user does is left alone.
	eventually(t, "all states are told", func() bool { return len(states.kinds()) == 1+5*3 })
	require.NoError(t, w.Channel().Disconnect())
	eventually(t, "that is told", func() bool { return states.last().Kind == socket.Disconnected })
	require.ErrorIs(t, states.last().Err, ipc.ErrDisconnected)
	_, err = number.Call(t.Context(), w, 1)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.NoError(t, w.Channel().Reconnect(t.Context()))
	eventually(t, "that is told", func() bool { return states.last().Kind == socket.Connected })
	want := []socket.StateKind{socket.Connected}
	for range 5 {
		want = append(want, socket.Disconnected, socket.Reconnecting, socket.Connected)
	}
	require.Equal(t, append(want, socket.Disconnected, socket.Connected), states.kinds())

	// A process that has ended is not looked for.
	_, err = finish.Call(t.Context(), w, 0)
	var exit *worker.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 5, exit.Code)
	eventually(t, "given up", func() bool { return states.last().Kind == socket.GaveUp })
	require.ErrorAs(t, states.last().Err, &exit)
}

// Without Resume pending calls end when the channel is back.
func TestAutomaticReconnectFailsPendingCalls(t *testing.T) {
	w := startResume(t, socket.Driver{Connect: socket.Connect{Auto: true}})
	held := beginHold(t, context.Background(), w, "a")
	_, err := cut.Call(t.Context(), w, 0)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.ErrorIs(t, <-held, ipc.ErrDisconnected)
	_, err = number.Call(t.Context(), w, 1)
	require.NoError(t, err)
}

// A channel that cannot be brought back says so, and why.
func TestAutomaticReconnectGivesUp(t *testing.T) {
	var states connStates
	path := t.TempDir() + "/s"
	w := startResume(t, socket.Driver{Path: path, Connect: socket.Connect{Auto: true, OnState: states.add, Attempts: 3, Delay: time.Millisecond}})
	require.NoError(t, os.Rename(path, path+".away"))
	go func() { _, _ = cut.Call(context.Background(), w, 0) }()
	eventually(t, "given up", func() bool { return states.last().Kind == socket.GaveUp })
	require.Equal(t, []socket.StateKind{
		socket.Connected, socket.Disconnected, socket.Reconnecting, socket.Reconnecting, socket.Reconnecting, socket.GaveUp,
	}, states.kinds())
	require.ErrorContains(t, states.last().Err, "after 3 attempts")
	states.mu.Lock()
	require.ErrorIs(t, states.list[1].Err, ipc.ErrPeerGone)
	require.NoError(t, states.list[2].Err)
	require.ErrorIs(t, states.list[3].Err, os.ErrNotExist)
	states.mu.Unlock()

	require.NoError(t, os.Rename(path+".away", path))
	require.NoError(t, w.Channel().Reconnect(t.Context()), "by hand it can be had again")
	_, err := number.Call(t.Context(), w, 1)
	require.NoError(t, err)
}

// OnState may call any method of the channel.
func TestOnStateMayUseTheChannel(t *testing.T) {
	var w atomic.Pointer[worker.Client[*socket.Channel]]
	back := make(chan error, 1)
	w.Store(startResume(t, socket.Driver{Connect: socket.Connect{OnState: func(s socket.State) {
		if s.Kind == socket.Disconnected {
			back <- errors.Join(w.Load().Channel().Reconnect(context.Background()), w.Load().Channel().Disconnect(), w.Load().Channel().Close())
		}
	}}}))
	require.NoError(t, w.Load().Channel().Disconnect())
	require.NoError(t, <-back)
}
