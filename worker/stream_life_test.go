//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// openEnds are streams that are open when something happens: one that the host reads and is
// full, and one that it sends to, and that is full.
type openEnds struct {
	down *ipc.ServerStreamCall[[]byte]
	up   *ipc.BidiStreamCall[[]byte, []byte]
	sent chan error // how sending has ended
}

func openStreams(t *testing.T, w ipc.Caller) *openEnds {
	t.Helper()
	var o openEnds
	var err error
	o.down, err = endless.Open(t.Context(), w, make([]byte, 100))
	require.NoError(t, err)
	_, err = o.down.Receive(t.Context())
	require.NoError(t, err)
	o.up, err = lasting.Open(t.Context(), w)
	require.NoError(t, err)
	o.sent = make(chan error, 1)
	go func() {
		for {
			if err := o.up.Send(context.Background(), make([]byte, 3000)); err != nil {
				o.sent <- err
				return
			}
		}
	}()
	eventually(t, "the handler runs", func() bool { return flowsOf(t, w).Holding > 0 })
	return &o
}

// ends returns how the streams have ended: first the reader gets what had come, then all the
// same error.
func (o *openEnds) ends(t *testing.T) error {
	t.Helper()
	var err error
	for err == nil {
		var b []byte
		if b, err = o.down.Receive(context.Background()); err == nil {
			require.Len(t, b, 100)
		}
	}
	sent := <-o.sent
	_, received := o.up.Receive(context.Background())
	require.Equal(t, outcomeOf(err), outcomeOf(sent), "%v and %v", err, sent)
	require.Equal(t, outcomeOf(err), outcomeOf(received), "%v and %v", err, received)
	require.Error(t, o.up.Send(context.Background(), nil))
	require.Equal(t, outcomeOf(err), outcomeOf(o.up.Send(context.Background(), nil)))
	return err
}

// A worker that is stopped holds its streams up, and ends them when it is killed.
func TestStreamsOfStoppedWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		o := openStreams(t, w)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		var err error
		for err == nil { // until the window is full
			err = o.up.Send(ctx, make([]byte, 3000))
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		var exit *worker.ExitError
		require.ErrorAs(t, o.ends(t), &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
	})
}

// A disconnection ends streams on both sides, whether calls are resumed or not.
func TestDisconnectEndsStreams(t *testing.T) {
	for _, opts := range [][]worker.Option{nil, {worker.WithResume(1 << 20)}} {
		w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{}, append(opts, worker.WithStartTimeout(time.Minute))...)
		require.NoError(t, err)
		handleStreams(w)
		for range 3 {
			before := flowsOf(t, w)
			o := openStreams(t, w)
			require.NoError(t, w.Channel().Disconnect())
			require.ErrorIs(t, o.ends(t), ipc.ErrDisconnected)
			_, err = lasting.Open(t.Context(), w)
			require.ErrorIs(t, err, ipc.ErrDisconnected)
			require.NoError(t, w.Channel().Reconnect(t.Context()))
			eventually(t, "the handlers have ended, and no other ones run", func() bool {
				now := flowsOf(t, w)
				return now.Holding == 0 && now.Canceled == before.Canceled+1
			})
			sent := sentInAll(t, w)
			n, err := openBack.Call(t.Context(), w, 3)
			require.NoError(t, err)
			require.Equal(t, 3, n)
			require.Equal(t, sent, flowsOf(t, w).Sent, "nobody sends")
		}
		require.NoError(t, w.Close())
	}
}

// Detach ends streams; the worker lives.
func TestDetachEndsStreams(t *testing.T) {
	w, err := worker.Spawn(t.Context(), worker.Self("test"), socket.Driver{Detached: true}, worker.WithStartTimeout(time.Minute))
	require.NoError(t, err)
	o := openStreams(t, w)
	ref, err := w.Channel().Detach()
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(ref.PID, syscall.SIGKILL) })
	require.ErrorIs(t, o.ends(t), ipc.ErrDisconnected)
	require.NoError(t, w.Close())
	again, err := worker.Attach(t.Context(), ref, socket.Connect{})
	if errors.Is(err, ipc.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	eventually(t, "the handler has ended", func() bool { return flowsOf(t, again).Holding == 0 })
	o = openStreams(t, again)
	o.up.Close()
	o.down.Close()
	require.NoError(t, again.Close())
}

// A stream is not repeated, whatever is. The next one goes to the next process, and waits for
// that if need be.
func TestStreamsAndRestarts(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithRestart(atOnce), worker.WithRetryAll(5))
		for range 3 {
			o, before := openStreams(t, w), w.PID()
			require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
			var exit *worker.ExitError
			require.ErrorAs(t, o.ends(t), &exit)
			require.Equal(t, before, exit.PID)
			next := 0
			for i, err := range numbers.Stream(t.Context(), w, counting{N: 1000}) {
				require.NoError(t, err)
				require.Equal(t, next, i)
				next++
			}
			require.Equal(t, 1000, next)
			now := flowsOf(t, w)
			require.Zero(t, now.Holding)
			require.Zero(t, now.Sent)
		}
	})
}

// While there is no process a stream waits for the next one, within its context and timeout.
func TestStreamWaitsForRestart(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithRestart(never))
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		eventually(t, "it is down", func() bool { return !w.Active() })
		_, err := lasting.Open(t.Context(), w, ipc.WithTimeout(soon))
		var limit *ipc.TimeoutError
		require.ErrorAs(t, err, &limit)
		require.Equal(t, soon, limit.After)
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		_, err = lasting.Open(ctx, w)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		waiting := make(chan error, 1)
		go func() {
			_, err := lasting.Open(context.Background(), w)
			waiting <- err
		}()
		_ = w.Close()
		require.ErrorIs(t, <-waiting, ipc.ErrClosed)
	})
}

// Close waits for streams within the grace; those that last longer end with ErrClosed, and
// their handlers are told.
func TestCloseAndStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Run("in time", func(t *testing.T) {
			w := s.start(t, worker.WithGrace(time.Minute))
			st, err := doubles.Open(t.Context(), w)
			require.NoError(t, err)
			require.NoError(t, st.Send(t.Context(), 1))
			closed := make(chan error, 1)
			go func() { closed <- w.Close() }()
			eventually(t, "it closes", func() bool { return !w.Active() })
			_, err = doubles.Open(t.Context(), w)
			require.ErrorIs(t, err, ipc.ErrClosed)
			for i := range 100 {
				_, err := st.Receive(t.Context())
				require.NoError(t, err)
				require.NoError(t, st.Send(t.Context(), i))
			}
			require.NoError(t, st.CloseSend(t.Context()))
			_, err = st.Receive(t.Context())
			require.NoError(t, err)
			_, err = st.Receive(t.Context())
			require.Equal(t, io.EOF, err)
			require.NoError(t, <-closed)
		})
		t.Run("too long", func(t *testing.T) {
			w := s.start(t, worker.WithGrace(10*soon))
			o := openStreams(t, w)
			closed := make(chan error, 1)
			go func() { closed <- w.Close() }()
			require.ErrorIs(t, o.ends(t), ipc.ErrClosed)
			require.NoError(t, <-closed, "the handlers have heeded their contexts")
		})
	})
}

// Close waits for the streams that the host has opened, and not for those of the worker, whose
// handlers run in the host.
func TestCloseAndStreamsOfTheWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithGrace(10*time.Minute))
		handleStreams(w)
		_, err := keepBack.Call(t.Context(), w, 1)
		require.NoError(t, err)
		closed := make(chan error, 1)
		go func() { closed <- w.Close() }()
		select {
		case err := <-closed:
			require.NoError(t, err)
		case <-time.After(time.Minute):
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
			t.Error("Close waits for a stream of the worker")
		}
	})
}

// A worker that drains goes on with its streams, and refuses others.
func TestDrainingWorkerAndStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t, worker.WithGrace(time.Minute))
		st, err := doubles.Open(t.Context(), w)
		require.NoError(t, err)
		require.NoError(t, st.Send(t.Context(), 0)) // so that its handler runs
		_, err = st.Receive(t.Context())
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGTERM))
		eventually(t, "it drains", func() bool {
			_, err := add.Call(t.Context(), w, pair{1, 1})
			return ipc.CodeOf(err) == ipc.CodeUnavailable
		})
		refused, err := doubles.Open(t.Context(), w)
		require.NoError(t, err)
		_, err = refused.Receive(t.Context())
		require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
		for i := range 100 {
			require.NoError(t, st.Send(t.Context(), i))
			got, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2*i, got)
		}
		require.NoError(t, st.CloseSend(t.Context()))
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		_ = w.Close()
	})
}

// Open streams on which nothing happens make the worker do nothing: there is a while in which
// none of its threads runs.
func TestIdleStreamsCostNothing(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for i := range 1000 {
			st, err := lasting.Open(t.Context(), w)
			require.NoError(t, err)
			defer st.Close()
			if i%2 == 0 { // and has been used
				require.NoError(t, st.Send(t.Context(), make([]byte, 10)))
			}
		}
		eventually(t, "all handlers run", func() bool { return flowsOf(t, w).Holding == 1000 })
		threads := func() (all string) {
			files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.PID()))
			require.NoError(t, err)
			for _, file := range files {
				b, _ := os.ReadFile(file)
				all += file + string(b)
			}
			return all
		}
		eventually(t, "no thread runs", func() bool {
			before := threads()
			time.Sleep(soon)
			return threads() == before
		})
	})
}
