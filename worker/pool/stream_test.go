//go:build unix

package pool_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// chat answers each item with the worker's pid and the item.
var chat = ipc.NewBidiStream[int, [2]int]("test.chat")

func handleChat(r worker.Registrar) {
	pid := syscall.Getpid()
	worker.HandleBidiStream(r, chat, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[[2]int]) error {
		for n, err := range in.All(ctx) {
			if err == nil {
				err = out.Send(ctx, [2]int{pid, n})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// openChat opens a stream and returns the pid of its worker.
func openChat(t *testing.T, c ipc.Caller) (*ipc.BidiStreamCall[int, [2]int], int) {
	t.Helper()
	st, err := chat.Open(t.Context(), c)
	require.NoError(t, err)
	return st, say(t, st, 1)
}

func say(t *testing.T, st *ipc.BidiStreamCall[int, [2]int], n int) (pid int) {
	t.Helper()
	require.NoError(t, st.Send(t.Context(), n))
	got, err := st.Receive(t.Context())
	require.NoError(t, err)
	require.Equal(t, n, got[1])
	return got[0]
}

func endChat(t *testing.T, st *ipc.BidiStreamCall[int, [2]int]) {
	t.Helper()
	require.NoError(t, st.CloseSend(t.Context()))
	_, err := st.Receive(t.Context())
	require.Equal(t, io.EOF, err)
}

// A stream holds the place of a call until it is over, however it ends.
func TestStreamHoldsItsPlace(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 1, pool.WithConcurrency(1))
		for _, end := range []func(*ipc.BidiStreamCall[int, [2]int]){
			func(st *ipc.BidiStreamCall[int, [2]int]) { endChat(t, st) },
			func(st *ipc.BidiStreamCall[int, [2]int]) { st.Close() },
		} {
			st, _ := openChat(t, w)
			_, err := add.Call(t.Context(), w, pair{1, 2}, ipc.WithTimeout(30*time.Millisecond))
			require.ErrorAs(t, err, new(*ipc.TimeoutError), "its place is taken")
			_, err = chat.Open(t.Context(), w, ipc.WithTimeout(30*time.Millisecond))
			require.ErrorAs(t, err, new(*ipc.TimeoutError))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			_, err = chat.Open(ctx, w)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
			require.Equal(t, 1, w.Stats().Running)
			waiting, err := add.Go(t.Context(), w, pair{1, 2})
			require.NoError(t, err)
			say(t, st, 2)
			end(st)
			n, err := waiting.Wait(t.Context())
			require.NoError(t, err)
			require.Equal(t, 3, n)
		}
		for range 3 { // streams that could not be opened hold no place
			_, err := uploadTooLarge(t, w)
			var tooLarge *ipc.SizeError
			require.ErrorAs(t, err, &tooLarge)
		}
		eventually(t, "all places are free", func() bool { return w.Stats().Running == 0 })
		require.NoError(t, w.Close())
	})
}

// uploadTooLarge opens a stream whose first item is too large.
func uploadTooLarge(t *testing.T, c ipc.Caller) (ipc.Stream, error) {
	return c.(ipc.StreamCaller).OpenStream(t.Context(), &ipc.Invocation{Method: chat.Info()}, &ipc.StreamOpening{First: make([]byte, 65<<20), Only: true})
}

// Streams of a key go to the same worker.
func TestStreamsByKey(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 3, pool.WithConcurrency(4))
		for _, key := range []string{"a", "b", "c", "d"} {
			who, err := pid.Call(t.Context(), w.For(key), 0)
			require.NoError(t, err)
			for range 3 {
				st, got := openChat(t, w.For(key))
				require.Equal(t, who.PID, got)
				endChat(t, st)
			}
		}
		require.NoError(t, w.Close())
	})
}

// When a worker is killed its streams end, and others go on; further ones go to the others.
func TestStreamsOfKilledWorkers(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 2, pool.WithConcurrency(2), pool.WithWorkers(worker.WithRetryAll(5)))
		for range 3 {
			eventually(t, "both are free", func() bool { return w.Stats().Running == 0 })
			a, victim := openChat(t, w)
			b, other := openChat(t, w)
			require.NotEqual(t, victim, other)
			require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
			_, err := a.Receive(t.Context())
			var exit *worker.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, victim, exit.PID)
			require.ErrorAs(t, a.Send(t.Context(), 1), &exit)
			for i := range 100 {
				require.Equal(t, other, say(t, b, i))
			}
			c, at := openChat(t, w)
			require.NotEqual(t, victim, at)
			endChat(t, b)
			endChat(t, c)
			eventually(t, "two serve", func() bool { return w.Stats().Running == 0 && w.Stats().Size == 2 })
			eventually(t, "it was replaced", func() bool {
				one, first := openChat(t, w)
				two, second := openChat(t, w)
				endChat(t, one)
				endChat(t, two)
				return first != second
			})
		}
		require.NoError(t, w.Close())
	})
}

// Replace and WithRecycle put successors in the places of workers at once; streams go on at
// the old ones, which end when the streams have.
func TestStreamsOfReplacedWorkers(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, pids := p.start(t, 1, pool.WithConcurrency(4))
		st, old := openChat(t, w)
		require.NoError(t, w.Replace(t.Context(), worker.Self("test")))
		require.NotEqual(t, old, pids()[0])
		next, at := openChat(t, w)
		require.Equal(t, pids()[0], at)
		for i := range 100 {
			require.Equal(t, old, say(t, st, i))
		}
		require.False(t, gone(old))
		endChat(t, st)
		eventually(t, "the old one has ended", func() bool { return gone(old) })
		endChat(t, next)
		require.NoError(t, w.Close())
	})
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 1, pool.WithConcurrency(4), pool.WithRecycle(pool.Recycle{Calls: 2}))
		first, old := openChat(t, w)
		second, _ := openChat(t, w)
		endChat(t, second)
		third, _ := openChat(t, w)
		third.Close()
		eventually(t, "it is recycled", func() bool {
			who, err := pid.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return who.PID != old
		})
		require.Equal(t, old, say(t, first, 5))
		endChat(t, first)
		eventually(t, "the old one has ended", func() bool { return gone(old) })
		require.NoError(t, w.Close())
	})
}

// A worker that drains goes on with its streams. It refuses others, and is replaced for that.
func TestStreamsOfDrainingWorkers(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 1, pool.WithConcurrency(4), pool.WithWorkers(worker.WithGrace(time.Minute)))
		st, old := openChat(t, w)
		require.NoError(t, syscall.Kill(old, syscall.SIGTERM))
		eventually(t, "another worker serves", func() bool {
			next, err := chat.Open(t.Context(), w)
			require.NoError(t, err)
			defer next.Close()
			_ = next.Send(t.Context(), 1)
			got, err := next.Receive(t.Context())
			require.True(t, err == nil || ipc.CodeOf(err) == ipc.CodeUnavailable, "%v", err)
			return err == nil && got[0] != old
		})
		for i := range 100 {
			require.Equal(t, old, say(t, st, i))
		}
		endChat(t, st)
		eventually(t, "the old one has ended", func() bool { return gone(old) })
		require.NoError(t, w.Close())
	})
}

// Close of a pool waits for streams within the grace, and ends the others.
func TestPoolCloseAndStreams(t *testing.T) {
	eachPool(t, func(t *testing.T, p pooler) {
		w, _ := p.start(t, 2, pool.WithConcurrency(4), pool.WithWorkers(worker.WithGrace(100*time.Millisecond)))
		st, _ := openChat(t, w)
		var ended atomic.Int64
		over, err := w.(ipc.StreamCaller).OpenStream(t.Context(), &ipc.Invocation{Method: chat.Info()}, &ipc.StreamOpening{OnEnd: func(err error) {
			if errors.Is(err, ipc.ErrClosed) {
				ended.Add(1)
			}
		}})
		require.NoError(t, err)
		closed := make(chan error, 1)
		go func() { closed <- w.Close() }()
		_, err = st.Receive(t.Context())
		require.ErrorIs(t, err, ipc.ErrClosed)
		require.NoError(t, <-closed)
		require.EqualValues(t, 1, ended.Load())
		over.Close()
		_, err = chat.Open(t.Context(), w)
		require.ErrorIs(t, err, ipc.ErrClosed)
	})
}
