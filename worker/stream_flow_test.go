//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var slowReader = flag.Duration("stream.slow", 3*time.Second, "how long TestSlowReader reads an item a second")

// Streams whose handlers do what the names say, and methods that tell what became of them.
var (
	endless  = ipc.NewServerStream[[]byte, []byte]("test.endless", ipc.WithCodec(ipc.Raw)) // the request, again and again
	lasting  = ipc.NewBidiStream[[]byte, []byte]("test.lasting", ipc.WithCodec(ipc.Raw))
	limited  = ipc.NewBidiStream[int, int]("test.limited")                               // two at a time; each says how many there are
	early    = ipc.NewClientStream[[]byte, []byte]("test.early", ipc.WithCodec(ipc.Raw)) // answers with the first item
	talking  = ipc.NewBidiStream[[]byte, []byte]("test.talking", ipc.WithCodec(ipc.Raw)) // sends as the window has room, and fails
	nestDown = ipc.NewBidiStream[int, int]("test.nest_down")
	nestUp   = ipc.NewBidiStream[int, int]("test.nest_up")
	// flows asks for what the worker has of streams.
	flows = ipc.NewMethod[struct{}, flowState]("test.flows")
	// openBack opens streams at the host, reads the first item of each, and leaves them.
	openBack = ipc.NewMethod[int, int]("test.open_back")
	// keepBack opens a stream at the host and returns, and reads it to its end.
	keepBack = ipc.NewMethod[int, int]("test.keep_back")
)

type flowState struct {
	Sent     int64 // items of endless streams
	Heap     int64 // bytes that are in use
	Runs     int64 // of limited
	Canceled int64 // lasting streams that have ended so
	Exceeded int64
	Holding  int64 // streams at present
}

// heap returns how many bytes of the heap and of stacks are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func serveStreamFlows(s *worker.Server) {
	var sent, runs, running, canceled, exceeded, held atomic.Int64
	worker.HandleServerStream(s, endless, func(ctx context.Context, item []byte, out *ipc.Sender[[]byte]) error {
		for item = bytes.Clone(item); ; sent.Add(1) {
			if err := out.Send(ctx, item); err != nil {
				return err
			}
		}
	})
	worker.HandleBidiStream(s, lasting, func(ctx context.Context, _ *ipc.Receiver[[]byte], _ *ipc.Sender[[]byte]) error {
		held.Add(1)
		<-ctx.Done()
		held.Add(-1)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			exceeded.Add(1)
		} else {
			canceled.Add(1)
		}
		return ctx.Err()
	})
	worker.HandleBidiStream(s, limited, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
		runs.Add(1)
		defer running.Add(-1)
		if err := out.Send(ctx, int(running.Add(1))); err != nil {
			return err
		}
		_, err := in.Receive(ctx)
		if err == io.EOF {
			return nil
		}
		return err
	}, worker.WithConcurrency(2))
	worker.HandleClientStream(s, early, func(ctx context.Context, in *ipc.Receiver[[]byte]) ([]byte, error) {
		b, err := in.Receive(ctx)
		return bytes.Clone(b), err
	})
	worker.HandleBidiStream(s, talking, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if _, err := in.Receive(ctx); err != nil {
			return err
		}
		for range 11 { // 11,088 bytes: more than the first window, the last of which are gathered
			own, cancel := context.WithTimeout(ctx, soon)
			_ = out.Send(own, make([]byte, 1000))
			cancel()
		}
		return errors.New("enough")
	})
	worker.HandleBidiStream(s, nestDown, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
		return passOn(ctx, nestUp, worker.Host(ctx), in, out)
	})
	worker.Handle(s, flows, func(context.Context, struct{}) (flowState, error) {
		return flowState{sent.Load(), heap(), runs.Load(), canceled.Load(), exceeded.Load(), held.Load()}, nil
	})
	worker.Handle(s, keepBack, func(ctx context.Context, n int) (int, error) {
		st, err := doubles.Open(context.Background(), worker.Host(ctx))
		if err != nil {
			return 0, err
		}
		go func() {
			for {
				if _, err := st.Receive(context.Background()); err != nil {
					return
				}
			}
		}()
		return n, st.Send(ctx, n)
	})
	worker.Handle(s, openBack, func(ctx context.Context, n int) (int, error) {
		for range n {
			st, err := doubles.Open(ctx, worker.Host(ctx))
			if err != nil {
				return 0, err
			}
			if err := st.Send(ctx, 21); err != nil {
				return 0, err
			}
			if got, err := st.Receive(ctx); err != nil || got != 42 {
				return got, err
			}
			st.Close()
		}
		return n, nil
	})
}

// passOn opens a stream of next, which is one less deep, and passes items on, there and back.
// The first item is how deep it is.
func passOn(ctx context.Context, next *ipc.BidiStream[int, int], c ipc.Caller, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
	depth, err := in.Receive(ctx)
	if err != nil {
		return err
	}
	if depth == 0 {
		for n, err := range in.All(ctx) {
			if err == nil {
				err = out.Send(ctx, n+1)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	st, err := next.Open(ctx, c)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Send(ctx, depth-1); err != nil {
		return err
	}
	for n, err := range in.All(ctx) {
		if err == nil {
			err = st.Send(ctx, n)
		}
		if err == nil {
			n, err = st.Receive(ctx)
		}
		if err == nil {
			err = out.Send(ctx, n+1)
		}
		if err != nil {
			return err
		}
	}
	return st.CloseSend(ctx)
}

func flowsOf(t *testing.T, w ipc.Caller) flowState {
	t.Helper()
	f, err := flows.Call(t.Context(), w, struct{}{})
	require.NoError(t, err)
	return f
}

// sentInAll returns how many items the worker has sent, when it sends no more.
func sentInAll(t *testing.T, w ipc.Caller) int64 {
	t.Helper()
	sent := int64(-1)
	eventually(t, "it sends no more", func() bool {
		now := flowsOf(t, w).Sent
		same := now == sent
		sent = now
		return same
	})
	return sent
}

// A host that reads an item a second from a worker that could send millions keeps the memory
// of both flat: the worker waits when the window is full. Calls on the link go on.
func TestSlowReader(t *testing.T) {
	const size, bound = 100, 2 << 20
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		st, err := endless.Open(t.Context(), w, make([]byte, size))
		require.NoError(t, err)
		defer st.Close()
		read := func() {
			_, err := st.Receive(t.Context())
			require.NoError(t, err)
		}
		for range 20_000 { // so that the window has its full size
			read()
		}
		var calls int
		var before flowState
		var heapBefore int64
		begin := time.Now()
		for second := begin; ; second = second.Add(time.Second) {
			read()
			for time.Since(second) < time.Second {
				sum, err := add.Call(t.Context(), w, pair{calls, 1})
				require.NoError(t, err)
				require.Equal(t, calls+1, sum)
				calls++
			}
			if heapBefore == 0 {
				before, heapBefore = flowsOf(t, w), heap()
			}
			if time.Since(begin) >= *slowReader {
				break
			}
		}
		after := flowsOf(t, w)
		// Drivers run at the same time in this process, so that the host's part is for two.
		require.Less(t, heap()-heapBefore, int64(2*bound), "bytes of the host")
		require.Less(t, after.Heap-before.Heap, int64(bound), "bytes of the worker")
		require.LessOrEqual(t, after.Sent-before.Sent, int64((drivers.DefaultStreamWindow+drivers.MaxGathered)/(size+4+8)), "items that were sent meanwhile")
		require.Greater(t, calls, 100)
	})
}

// A reader that reads nothing stops its own writer, after the window, and nobody else: no
// other stream and no call, in both directions.
func TestStreamThatNobodyReads(t *testing.T) {
	const size = 1000
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		handleStreams(w)
		var stuck []*ipc.ServerStreamCall[[]byte]
		for range 10 {
			st, err := endless.Open(t.Context(), w, make([]byte, size))
			require.NoError(t, err)
			defer st.Close()
			stuck = append(stuck, st)
		}
		sink, err := lasting.Open(t.Context(), w)
		require.NoError(t, err)
		defer sink.Close()
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		n := 0
		for ; err == nil; n++ {
			err = sink.Send(ctx, make([]byte, size))
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, n-1, (drivers.InitialStreamWindow+drivers.MaxGathered)/(size+8), "its reader has not read, so the window is the first one")

		next := 0
		for i, err := range numbers.Stream(t.Context(), w, counting{N: 50_000}) {
			require.NoError(t, err)
			require.Equal(t, next, i)
			next++
		}
		require.Equal(t, 50_000, next)
		got, err := openBack.Call(t.Context(), w, 20)
		require.NoError(t, err)
		require.Equal(t, 20, got)
		for i := range 1000 {
			_, err := add.Call(t.Context(), w, pair{i, 1})
			require.NoError(t, err)
		}
		require.LessOrEqual(t, flowsOf(t, w).Sent, int64(10*(drivers.InitialStreamWindow+drivers.MaxGathered)/(size+8)))
		for _, st := range stuck { // each goes on when it is read
			for range 20 {
				b, err := st.Receive(t.Context())
				require.NoError(t, err)
				require.Len(t, b, size)
			}
		}
	})
}

// Send and Receive that wait end with their context, and the stream goes on: what was not
// sent is not sent later, and what comes is received later.
func TestStreamContextsOfSteps(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		st, err := doubles.Open(t.Context(), w)
		require.NoError(t, err)
		defer st.Close()
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), soon/10)
			_, err := st.Receive(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
			require.NoError(t, st.Send(t.Context(), i))
			got, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2*i, got)
		}
		sent, failed := 0, false
		for !failed { // nobody receives what comes back
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			failed = st.Send(ctx, sent) != nil
			if !failed {
				sent++
			}
			cancel()
		}
		closed := make(chan error, 1)
		go func() { closed <- st.CloseSend(t.Context()) }()
		got := 0
		for n, err := range st.All(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, 2*got, n)
			got++
		}
		require.NoError(t, <-closed)
		require.Equal(t, sent, got)
	})
}

// The context of a handler ends when its stream is given up, in whatever way, and says why.
func TestHandlersOfStreamsAreTold(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		var limit *ipc.TimeoutError
		for _, row := range []struct {
			name     string
			end      func(context.CancelFunc, *ipc.BidiStreamCall[[]byte, []byte])
			deadline bool
			opts     []ipc.CallOption
			is       error
		}{
			{"Close", func(_ context.CancelFunc, st *ipc.BidiStreamCall[[]byte, []byte]) { st.Close() }, false, nil, ipc.ErrClosed},
			{"context", func(cancel context.CancelFunc, _ *ipc.BidiStreamCall[[]byte, []byte]) { cancel() }, false, nil, context.Canceled},
			{"deadline", nil, true, nil, context.DeadlineExceeded},
			{"timeout", nil, false, []ipc.CallOption{ipc.WithTimeout(5 * time.Second)}, context.DeadlineExceeded},
		} {
			before := flowsOf(t, w)
			ctx, cancel := context.WithCancel(t.Context())
			if row.deadline {
				ctx, cancel = context.WithTimeout(ctx, 5*time.Second) // the handler runs by then
			}
			st, err := lasting.Open(ctx, w, row.opts...)
			require.NoError(t, err)
			if row.end != nil {
				eventually(t, "the handler runs", func() bool { return flowsOf(t, w).Holding == 1 })
				row.end(cancel, st)
			}
			_, err = st.Receive(context.Background())
			require.ErrorIs(t, err, row.is, row.name)
			require.Equal(t, row.opts != nil, errors.As(err, &limit), row.name)
			require.ErrorIs(t, st.Send(context.Background(), nil), row.is, row.name)
			eventually(t, "the handler has ended", func() bool {
				now := flowsOf(t, w)
				if row.end == nil {
					return now.Exceeded+now.Canceled > before.Exceeded+before.Canceled && now.Holding == 0
				}
				return now.Canceled == before.Canceled+1
			})
			if row.end == nil {
				require.Equal(t, before.Canceled, flowsOf(t, w).Canceled, row.name)
			}
			cancel()
		}
		// Leaving the loop is Close.
		for _, err := range endless.Stream(t.Context(), w, []byte("x")) {
			require.NoError(t, err)
			break
		}
		sentInAll(t, w)
	})
}

// Streams in handlers of streams, from host to worker to host and so on, do not wait for each
// other.
func TestNestedStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		worker.HandleBidiStream(w, nestUp, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
			return passOn(ctx, nestDown, w, in, out)
		})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for depth := range 7 {
					st, err := nestDown.Open(t.Context(), w)
					if err == nil {
						err = st.Send(t.Context(), depth)
					}
					for i := range 50 {
						if err == nil {
							err = st.Send(t.Context(), i)
						}
						if err == nil {
							var n int
							if n, err = st.Receive(t.Context()); err == nil && n != i+depth+1 {
								err = errors.New("another item")
							}
						}
					}
					if err == nil {
						err = st.CloseSend(t.Context())
					}
					if err == nil {
						_, err = st.Receive(t.Context())
					}
					if err != io.EOF {
						t.Errorf("depth %d: %v", depth, err)
					}
				}
			})
		}
		all.Wait()
	})
}

// So many handlers of streams run at a time as WithConcurrency says, in any order.
func TestConcurrencyOfStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		var open []*ipc.BidiStreamCall[int, int]
		for range 6 {
			st, err := limited.Open(t.Context(), w)
			require.NoError(t, err)
			defer st.Close()
			open = append(open, st)
		}
		first := make(chan *ipc.BidiStreamCall[int, int], len(open))
		for _, st := range open {
			go func() {
				n, err := st.Receive(t.Context())
				if err != nil || n > 2 {
					t.Errorf("%d handlers run: %v", n, err)
				}
				first <- st
			}()
		}
		for range open { // each that ends lets another one begin
			st := <-first
			require.NoError(t, st.CloseSend(t.Context()))
			_, err := st.Receive(t.Context())
			require.Equal(t, io.EOF, err)
		}
		require.EqualValues(t, len(open), flowsOf(t, w).Runs)
	})
}

// A handler that returns early gives its answer, however large that and what it has sent are,
// though the other side reads nothing before it has sent all.
func TestHandlerReturnsEarly(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for _, size := range []int{10, 8000, 8200, 100_000, 1 << 20} {
			up, err := early.Open(t.Context(), w)
			require.NoError(t, err)
			for n := 0; err == nil; n++ {
				err = up.Send(t.Context(), make([]byte, max(size, n%3*1000)))
			}
			require.Equal(t, io.EOF, err)
			got, err := up.CloseAndReceive(t.Context())
			require.NoError(t, err)
			require.Len(t, got, size)
		}
		for _, size := range []int{10, 1000, 20_000} {
			st, err := talking.Open(t.Context(), w)
			for err == nil {
				err = st.Send(t.Context(), make([]byte, size))
			}
			if err != io.EOF { // it has returned without having to wait for room
				require.ErrorContains(t, err, "enough")
			}
			got := 0
			for _, err = range st.All(t.Context()) {
				if err == nil {
					got++
				}
			}
			require.ErrorContains(t, err, "enough")
			require.GreaterOrEqual(t, got, 7)
		}
	})
}

// Ten thousand idle streams of a link take little memory on either side, and end with it.
func TestManyIdleStreams(t *testing.T) {
	const many = 10_000
	eachDriver(t, func(t *testing.T, s spawner) { // not in parallel: the heap is this test's alone
		if s.name != "shm" && s.name != "socket" {
			return
		}
		w := s.start(t)
		before, heapBefore := flowsOf(t, w), heap()
		ended := make(chan error, many)
		var open []*ipc.BidiStreamCall[[]byte, []byte]
		for range many {
			st, err := lasting.Open(t.Context(), w)
			require.NoError(t, err)
			open = append(open, st)
		}
		eventually(t, "all handlers run", func() bool { return flowsOf(t, w).Holding == many })
		if !raceEnabled {
			require.Less(t, heap()-heapBefore, int64(many*3<<10), "bytes of the host")
			require.Less(t, flowsOf(t, w).Heap-before.Heap, int64(many*10<<10), "bytes of the worker, with the goroutines of the handlers")
		}
		for _, st := range open {
			go func() {
				_, err := st.Receive(context.Background())
				ended <- err
			}()
		}
		for _, st := range open[:many/2] {
			st.Close()
		}
		for range many / 2 {
			require.ErrorIs(t, <-ended, ipc.ErrClosed)
		}
		eventually(t, "half of them have ended", func() bool { return flowsOf(t, w).Holding == many/2 })
		_, _ = die.Call(t.Context(), w, death{File: t.TempDir() + "/x", Times: 1})
		for range many / 2 {
			var exit *worker.ExitError
			require.ErrorAs(t, <-ended, &exit)
		}
	})
}
