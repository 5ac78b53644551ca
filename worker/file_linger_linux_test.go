package worker_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	lingerTake   = ipc.NewMethod[ipc.File, int]("linger.take") // the worker keeps it
	lingerHand   = ipc.NewMethod[int, ipc.File]("linger.hand") // the worker hands it out, when the gate is open
	lingerOther  = ipc.NewMethod[int, struct{}]("linger.hand") // of a caller that expects no file
	lingerList   = ipc.NewServerStream[int, ipc.File]("linger.list")
	lingerIgnore = ipc.NewMethod[ipc.File, int]("linger.ignore") // when the gate is open
	lingerSink   = ipc.NewClientStream[ipc.File, int]("linger.sink")
	lingerBack   = ipc.NewMethod[int, int]("linger.back") // calls lingerStray of the host
	lingerStray  = ipc.NewMethod[ipc.File, int]("linger.stray")
	lingerClosed = ipc.NewMethod[int, int]("linger.closed") // the worker has closed what it has sent
	lingerGate   = ipc.NewMethod[int, int]("linger.gate")   // opens the gate
)

func init() {
	entries["linger"] = func() error {
		s := worker.NewServer()
		var mu sync.Mutex
		var kept *os.File
		give := func() ipc.File {
			mu.Lock()
			defer mu.Unlock()
			f := ipc.NewFile(kept)
			kept = nil
			return f
		}
		gate, closed := make(chan struct{}), make(chan struct{})
		worker.Handle(s, add, func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
		worker.Handle(s, lingerTake, func(_ context.Context, f ipc.File) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			kept = f.Take()
			return 0, nil
		})
		worker.Handle(s, lingerHand, func(context.Context, int) (ipc.File, error) {
			<-gate
			return give(), nil
		}, worker.WithConcurrency(2))
		worker.HandleServerStream(s, lingerList, func(ctx context.Context, _ int, out *ipc.Sender[ipc.File]) error {
			f := give()
			err := out.Send(ctx, f)
			f.Close() // the host has it
			close(closed)
			if err == nil {
				<-ctx.Done()
			}
			return err
		})
		worker.Handle(s, lingerIgnore, func(context.Context, ipc.File) (int, error) {
			<-gate
			return 0, nil
		}, worker.WithConcurrency(2))
		worker.HandleClientStream(s, lingerSink, func(ctx context.Context, in *ipc.Receiver[ipc.File]) (int, error) {
			<-gate
			return 0, nil
		})
		worker.Handle(s, lingerBack, func(ctx context.Context, _ int) (int, error) {
			f := give()
			p, err := lingerStray.Go(ctx, worker.Host(ctx), f)
			if err != nil {
				return 0, err
			}
			go func() { // for the host may have closed it before
				f.Close()
				close(closed)
			}()
			_, err = p.Wait(ctx)
			return 0, err
		}, worker.WithConcurrency(2))
		worker.Handle(s, lingerClosed, func(context.Context, int) (int, error) {
			<-closed
			return 0, nil
		}, worker.WithConcurrency(2))
		worker.Handle(s, lingerGate, func(context.Context, int) (int, error) {
			close(gate)
			return 0, nil
		})
		return s.Serve(context.Background())
	}
}

// lingerFates are ways in which the library closes a file that nobody wants.
var lingerFates = map[string]func(t *testing.T, w client, f *os.File){
	"response that comes late": func(t *testing.T, w client, f *os.File) {
		lend(t, w, f)
		p, err := lingerHand.Go(t.Context(), w, 0)
		require.NoError(t, err)
		p.Abandon()
		openGate(t, w)
	},
	"response of another type": func(t *testing.T, w client, f *os.File) {
		lend(t, w, f)
		openGate(t, w)
		_, err := lingerOther.Call(t.Context(), w, 0)
		require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err), "%v", err)
	},
	"item that nobody reads": func(t *testing.T, w client, f *os.File) {
		lend(t, w, f)
		st, err := lingerList.Open(t.Context(), w, 0)
		require.NoError(t, err)
		_, err = lingerClosed.Call(t.Context(), w, 0)
		require.NoError(t, err)
		st.Close()
	},
	"item of another type": func(t *testing.T, w client, f *os.File) {
		lend(t, w, f)
		st, err := ipc.NewServerStream[int, struct{ What ipc.File }]("linger.list").Open(t.Context(), w, 0)
		require.NoError(t, err)
		_, err = lingerClosed.Call(t.Context(), w, 0)
		require.NoError(t, err)
		_, err = st.Receive(t.Context())
		require.Error(t, err)
	},
	"request of the worker that nobody handles": func(t *testing.T, w client, f *os.File) {
		lend(t, w, f)
		_, err := lingerBack.Call(t.Context(), w, 0)
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
	},
	"request of the worker": func(t *testing.T, w client, f *os.File) {
		closed := make(chan struct{})
		worker.Handle(w, lingerStray, func(context.Context, ipc.File) (int, error) {
			<-closed
			return 0, nil
		}, worker.WithConcurrency(2))
		lend(t, w, f)
		p, err := lingerBack.Go(t.Context(), w, 0)
		require.NoError(t, err)
		_, err = lingerClosed.Call(t.Context(), w, 0)
		require.NoError(t, err)
		close(closed)
		_, err = p.Wait(t.Context())
		require.NoError(t, err)
	},
	"request": func(t *testing.T, w client, f *os.File) {
		p, err := lingerIgnore.Go(t.Context(), w, ipc.NewFile(f))
		require.NoError(t, err)
		linkWorks(t, w) // and the worker has the request
		require.NoError(t, f.Close())
		openGate(t, w)
		_, err = p.Wait(t.Context())
		require.NoError(t, err)
	},
	"item of the host that nobody reads": func(t *testing.T, w client, f *os.File) {
		st, err := lingerSink.Open(t.Context(), w)
		require.NoError(t, err)
		require.NoError(t, st.Send(t.Context(), ipc.NewFile(f)))
		require.NoError(t, f.Close())
		openGate(t, w)
		_, err = st.CloseAndReceive(t.Context())
		require.NoError(t, err)
	},
}

// lend makes the worker the only one that has the file.
func lend(t *testing.T, w client, f *os.File) {
	t.Helper()
	_, err := lingerTake.Call(t.Context(), w, ipc.NewFile(f))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func openGate(t *testing.T, w client) {
	t.Helper()
	_, err := lingerGate.Call(t.Context(), w, 0)
	require.NoError(t, err)
}

// linkWorks makes many calls, which somebody has to read, in the same goroutine and in others.
func linkWorks(t *testing.T, w client) {
	t.Helper()
	ends := make(chan error, 8)
	for range cap(ends) {
		go func() {
			for range 50 {
				if _, err := add.Call(t.Context(), w, pair{1, 2}, ipc.WithTimeout(time.Minute)); err != nil {
					ends <- err
					return
				}
			}
			ends <- nil
		}()
	}
	for range cap(ends) {
		require.NoError(t, <-ends)
	}
}

// A file whose close blocks holds up nobody: neither the call that it came for, nor others, nor the end of the link.
func TestCloseThatBlocks(t *testing.T) {
	for name, fate := range lingerFates {
		t.Run(name, func(t *testing.T) {
			eachPlainDriver(t, func(t *testing.T, s spawner) {
				w, err := s.spawn(t.Context(), worker.Self("linger"))
				require.NoError(t, err)
				defer w.Close()
				f, release := leaktest.Lingering(t)
				fate(t, w, f)
				linkWorks(t, w)
				require.NoError(t, w.Close())
				release()
			})
		})
	}
}
