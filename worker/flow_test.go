//go:build unix

package worker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	// These count numbered notifications, each by a handler of its own kind.
	queued   = ipc.NewMethod[[]byte, []byte]("test.queued", ipc.WithCodec(ipc.Raw))
	adaptive = ipc.NewMethod[[]byte, []byte]("test.adaptive", ipc.WithCodec(ipc.Raw))
	inline   = ipc.NewMethod[[]byte, []byte]("test.inline", ipc.WithCodec(ipc.Raw))
	// flood sends so many notifications to the host's method back.
	flood = ipc.NewMethod[int, int]("test.flood")
	back  = ipc.NewMethod[[]byte, []byte]("test.back", ipc.WithCodec(ipc.Raw))
	// ending waits for the end of its context, and says to the host's method endedWhy why it
	// came, and whether there was a deadline.
	ending   = ipc.NewMethod[int, int]("test.ending")
	endedWhy = ipc.NewMethod[why, int]("test.ended")
)

// asking asks the host's method large for an answer of many bytes, and counts.
var (
	asking = ipc.NewMethod[int, int]("test.asking")
	asked  = ipc.NewMethod[int, int]("test.asked")
	large  = ipc.NewMethod[int, []byte]("test.large")
)

type why struct {
	Deadline, Exceeded, DerivedExceeded bool

	Call int // which one ended
}

// counter answers with how many of the numbered notifications before were not the next
// after the one before them, and with the last one.
func counter(slowEvery uint64) func(context.Context, []byte) ([]byte, error) {
	var mu sync.Mutex
	var last, jumps uint64
	return func(_ context.Context, b []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if n := binary.LittleEndian.Uint64(b); n != 0 {
			if n != last+1 {
				jumps++
			}
			last = n
			if slowEvery > 0 && n%slowEvery == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, jumps), last), nil
	}
}

func serveFlows(s *worker.Server) {
	worker.Handle(s, queued, counter(0), worker.WithConcurrency(1))
	worker.Handle(s, adaptive, counter(1000))
	worker.Handle(s, inline, counter(1000), worker.WithInline())
	worker.Handle(s, flood, func(ctx context.Context, n int) (int, error) {
		for i := range n {
			if err := back.Notify(ctx, worker.Host(ctx), binary.LittleEndian.AppendUint64(nil, uint64(i+1))); err != nil {
				return i, err
			}
		}
		return n, nil
	})
	var answers atomic.Int64
	worker.Handle(s, asking, func(ctx context.Context, n int) (int, error) {
		b, err := large.Call(ctx, worker.Host(ctx), n)
		if len(b) == n {
			answers.Add(1)
		}
		return 0, err
	}, worker.WithInline())
	worker.Handle(s, asked, func(context.Context, int) (int, error) { return int(answers.Load()), nil })
	worker.Handle(s, ending, func(ctx context.Context, call int) (int, error) {
		derived, cancel := context.WithTimeout(context.WithValue(ctx, flowKey{}, 1), time.Hour)
		defer cancel()
		w := why{Call: call}
		_, w.Deadline = ctx.Deadline()
		<-derived.Done()
		w.Exceeded = errors.Is(ctx.Err(), context.DeadlineExceeded)
		w.DerivedExceeded = errors.Is(derived.Err(), context.DeadlineExceeded)
		if _, err := endedWhy.Call(context.Background(), worker.Host(ctx), w); err != nil {
			return 0, err
		}
		return 0, ctx.Err()
	})
}

type flowKey struct{}

// requireAll checks that all of n numbered notifications have been handled in their order.
func requireAll(t *testing.T, c ipc.Caller, m *ipc.Method[[]byte, []byte], n uint64) {
	t.Helper()
	var b []byte
	eventually(t, "all were handled", func() bool {
		var err error
		b, err = m.Call(t.Context(), c, numbered(0, 0))
		require.NoError(t, err)
		return binary.LittleEndian.Uint64(b[8:]) == n
	})
	require.Zero(t, binary.LittleEndian.Uint64(b), "one was lost, or overtaken")
}

// Far more notifications than anybody could keep arrive at handlers that are slower than
// their sender: they hold it up.
func TestNotificationsAreNotLost(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for m, n := range map[*ipc.Method[[]byte, []byte]]uint64{queued: 200_000, adaptive: 30_000, inline: 30_000} {
			err := ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
				for i := range n {
					if err := m.Notify(t.Context(), c, numbered(i+1, 0)); err != nil {
						return err
					}
				}
				return nil
			})
			require.NoError(t, err)
			requireAll(t, w, m, n)
		}
	})
}

// The same in the other direction: a host holds up its worker.
func TestNotificationsToTheHostAreNotLost(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		var most, now atomic.Int32
		count := counter(1000)
		worker.Handle(w, back, func(ctx context.Context, b []byte) ([]byte, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			return count(ctx, b)
		}, worker.WithInline())
		const n = 30_000
		sent, err := flood.Call(t.Context(), w, n)
		require.NoError(t, err)
		require.Equal(t, n, sent)
		eventually(t, "all were handled", func() bool {
			b, _ := count(t.Context(), numbered(0, 0))
			require.Zero(t, binary.LittleEndian.Uint64(b))
			return binary.LittleEndian.Uint64(b[8:]) == n
		})
		require.EqualValues(t, 1, most.Load(), "one at a time")
	})
}

// More calls at once than a peer takes wait, and none is refused.
func TestMoreCallsThanTheWindow(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		const callers = 70_000
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range callers {
			wg.Go(func() {
				if _, err := sleep.Call(context.Background(), w, 20*time.Millisecond); err != nil && failed.Add(1) == 1 {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Zero(t, failed.Load())
		require.True(t, w.Active())
	})
}

// A handler knows the deadline of its call, whoever has set it, and why its context has
// ended.
func TestHandlersKnowTheDeadline(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		reasons, call := make(chan why, 100), 0
		worker.Handle(w, endedWhy, func(_ context.Context, r why) (int, error) { reasons <- r; return 0, nil })
		short := 10 * time.Millisecond
		for name, c := range map[string]struct {
			context, timeout time.Duration // 0: none
			cancelled        bool
			want             why
		}{
			"timeout":           {0, short, false, why{true, true, true, 0}},
			"context":           {short, 0, false, why{true, true, true, 0}},
			"earlier context":   {short, time.Hour, false, why{true, true, true, 0}},
			"earlier timeout":   {time.Hour, short, false, why{true, true, true, 0}},
			"given up":          {0, 0, true, why{false, false, false, 0}},
			"given up early":    {time.Hour, time.Hour, true, why{true, false, false, 0}},
			"given up, default": {0, -1, true, why{true, false, false, 0}},
		} {
			// A request that is overdue before its handler begins is not run.
			first := call + 1
			for began, patience := false, time.Duration(1); !began; patience *= 4 {
				ctx, cancel := context.WithCancel(context.Background())
				if c.context > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.context*patience)
				}
				var opts []ipc.CallOption
				if c.timeout >= 0 {
					opts = append(opts, ipc.WithTimeout(c.timeout*patience))
				}
				if c.cancelled {
					time.AfterFunc(2*short*patience, cancel)
				}
				call++
				_, err := ending.Call(ctx, w, call, opts...)
				if c.cancelled {
					require.ErrorIs(t, err, context.Canceled, name)
				} else {
					require.ErrorIs(t, err, context.DeadlineExceeded, name)
				}
				for given := time.After(time.Second); !began && given != nil; {
					select {
					case got := <-reasons:
						if began = got.Call >= first; began { // what those of another case say may come late
							got.Call = 0
							require.Equal(t, c.want, got, name)
						}
					case <-given:
						given = nil
					}
				}
				cancel()
			}
		}
	})
}

// The handlers of notifications that travel together may ask for more than the link holds
// beside them.
func TestAnswersBesideNotifications(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		worker.Handle(w, large, func(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil })
		require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			for range 10 {
				if err := asking.Notify(t.Context(), c, 200<<10); err != nil {
					return err
				}
			}
			return nil
		}))
		eventually(t, "all have their answers", func() bool {
			n, err := asked.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return n == 10
		})
	})
}
