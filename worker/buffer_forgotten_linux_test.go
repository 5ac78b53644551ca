package worker_test

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// leftItem has a buffer, a file, or neither.
type leftItem struct {
	B    ipc.Buffer
	File ipc.File
}

// leftReport is what a worker knows of what it has forgotten.
type leftReport struct {
	Forgotten uint64
	Log       string
}

var (
	leftGive   = ipc.NewMethod[int, ipc.Buffer]("left.give") // of so many bytes
	leftOpen   = ipc.NewMethod[int, leftItem]("left.open")   // a file
	leftKeep   = ipc.NewMethod[ipc.Buffer, []byte]("left.keep", ipc.WithCodec(ipc.Raw))
	leftFreeze = ipc.NewMethod[ipc.Buffer, []byte]("left.freeze", ipc.WithCodec(ipc.Raw))
	leftAsk    = ipc.NewMethod[int, int]("left.ask") // asks the host for a buffer, and for a file if it is 0
	leftPair   = ipc.NewBidiStream[leftItem, leftItem]("left.pair")
	leftCount  = ipc.NewMethod[int, leftReport]("left.count")
)

// forgetful are handlers that keep no buffer, and release none.
func forgetful(r worker.Registrar) {
	worker.Handle(r, leftGive, func(ctx context.Context, n int) (ipc.Buffer, error) { return worker.Alloc(ctx, n) })
	worker.Handle(r, leftOpen, func(context.Context, int) (leftItem, error) {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return leftItem{}, err
		}
		return leftItem{File: ipc.NewFile(f)}, nil
	})
	worker.Handle(r, leftKeep, func(_ context.Context, b ipc.Buffer) ([]byte, error) {
		_ = b.Retain()
		return nil, nil
	})
	worker.Handle(r, leftFreeze, func(_ context.Context, b ipc.Buffer) ([]byte, error) {
		_, err := b.Freeze()
		return nil, err
	})
	worker.HandleBidiStream(r, leftPair, func(ctx context.Context, in *ipc.Receiver[leftItem], out *ipc.Sender[leftItem]) error {
		for item, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if err := out.Send(ctx, item); err != nil { // and that is all
				return err
			}
		}
		return nil
	})
}

func init() {
	entries["forgetful"] = func() error {
		var log syncBuffer
		s := worker.NewServer(worker.WithServerLogger(slog.New(slog.NewTextHandler(&log, nil))))
		forgetful(s)
		worker.Handle(s, leftAsk, func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				_, err := leftOpen.Call(ctx, worker.Host(ctx), 0)
				return 0, err
			}
			_, err := leftGive.Call(ctx, worker.Host(ctx), n)
			return 0, err
		})
		worker.Handle(s, leftCount, func(context.Context, int) (leftReport, error) {
			runtime.GC()
			return leftReport{s.Forgotten(), log.String()}, nil
		})
		return s.Serve(context.Background())
	}
}

// exchangeLeft sends n items through a stream, and forgets what comes back, which the handler has forgotten, too.
func exchangeLeft(t *testing.T, c ipc.Caller, item leftItem, n int) {
	t.Helper()
	st, err := leftPair.Open(t.Context(), c)
	require.NoError(t, err)
	defer st.Close()
	for range n {
		require.NoError(t, st.Send(t.Context(), item))
		_, err := st.Receive(t.Context())
		require.NoError(t, err)
	}
}

// forgetting are ways in which buffers, or files, that were received are forgotten: how many by the host, and by
// the worker.
var forgetting = map[string]struct {
	do          func(t *testing.T, c ipc.Caller, b ipc.Buffer)
	here, there int
	files       bool
}{
	"response": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		_, err := leftGive.Call(t.Context(), c, 777)
		require.NoError(t, err)
	}, 1, 0, false},
	"response into": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		var b ipc.Buffer
		require.NoError(t, leftGive.CallInto(t.Context(), c, 777, &b))
	}, 1, 0, false},
	"response of a future": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		f, err := leftGive.Go(t.Context(), c, 777)
		require.NoError(t, err)
		_, err = f.Wait(t.Context())
		require.NoError(t, err)
	}, 1, 0, false},
	"frozen response": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		b, err := leftGive.Call(t.Context(), c, 777)
		require.NoError(t, err)
		defer b.Release()
		frozen, err := b.Freeze()
		require.NoError(t, err)
		_, err = frozen.Freeze() // of which the copy is forgotten, too
		require.NoError(t, err)
	}, 2, 0, false},
	"file of a response": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		_, err := leftOpen.Call(t.Context(), c, 0)
		require.NoError(t, err)
	}, 1, 0, true},
	"request": {func(t *testing.T, c ipc.Caller, b ipc.Buffer) {
		_, err := leftKeep.Call(t.Context(), c, b)
		require.NoError(t, err)
		require.NoError(t, leftKeep.Notify(t.Context(), c, b))
	}, 0, 2, false},
	"frozen request": {func(t *testing.T, c ipc.Caller, b ipc.Buffer) {
		_, err := leftFreeze.Call(t.Context(), c, b)
		require.NoError(t, err)
	}, 0, 1, false},
	"response of the host": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		_, err := leftAsk.Call(t.Context(), c, 777)
		require.NoError(t, err)
	}, 0, 1, false},
	"file of the host": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		_, err := leftAsk.Call(t.Context(), c, 0)
		require.NoError(t, err)
	}, 0, 1, true},
	"stream": {func(t *testing.T, c ipc.Caller, b ipc.Buffer) {
		exchangeLeft(t, c, leftItem{B: b}, 3)
	}, 3, 3, false},
	"files of a stream": {func(t *testing.T, c ipc.Caller, _ ipc.Buffer) {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer f.Close()
		exchangeLeft(t, c, leftItem{File: ipc.NewFile(f)}, 3)
	}, 3, 3, true},
	"nothing": {func(t *testing.T, c ipc.Caller, b ipc.Buffer) {
		_, err := leftGive.Call(t.Context(), c, 777)
		require.NoError(t, err)
		exchangeLeft(t, c, leftItem{}, 3)
	}, 1, 0, false}, // so that there is something to wait for
}

// What a process has received and forgotten is released, counted and logged there, and is free for its maker.
func TestForgottenReceivedIsTold(t *testing.T) {
	for name, way := range forgetting {
		t.Run(name, func(t *testing.T) {
			eachPlainDriver(t, func(t *testing.T, s spawner) {
				var log syncBuffer
				arena := newArena(t, ipc.ArenaOptions{})
				w, err := s.spawn(t.Context(), worker.Self("forgetful"), worker.WithArena(arena), worker.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				require.NoError(t, err)
				defer w.Close()
				forgetful(w)
				b := filledBuffer(t, arena, 777, 1)
				way.do(t, w, b)
				b.Release()
				var there leftReport
				eventually(t, "all are found", func() bool {
					runtime.GC()
					if there, err = leftCount.Call(t.Context(), w, 0); err != nil {
						return false
					}
					return w.Forgotten() >= uint64(way.here) && there.Forgotten >= uint64(way.there)
				})
				require.NoError(t, err)
				requireTold(t, log.String(), way.here, way.files)
				requireTold(t, there.Log, way.there, way.files)
				require.EqualValues(t, way.here, w.Forgotten())
				require.EqualValues(t, way.there, there.Forgotten)
				eventually(t, "the maker knows", func() bool { return arena.Stats().Buffers == 0 })
				require.Zero(t, arena.Stats().Forgotten, "that is not the arena's")
			})
		})
	}
}

// requireTold says that a log has n lines about buffers of 777 bytes, or about files.
func requireTold(t *testing.T, log string, n int, files bool) {
	t.Helper()
	about := "a received buffer was forgotten, and is released by the garbage collector\" bytes=777"
	if files {
		about = "a received file was forgotten, and is closed by the garbage collector"
	}
	require.Equal(t, n, strings.Count(log, about), log)
	require.Equal(t, n, strings.Count(log, "forgotten"), log)
}

// What clients of a pool have received and forgotten is in the statistics of the pool, also of those that have gone.
func TestPoolCountsForgotten(t *testing.T) {
	test := func(t *testing.T, p interface {
		ipc.Caller
		Stats() pool.Stats
		Close() error
	}, err error, log *syncBuffer) {
		require.NoError(t, err)
		defer p.Close()
		for range 5 {
			_, err := leftGive.Call(t.Context(), p, 777)
			require.NoError(t, err)
		}
		require.NoError(t, p.Close())
		eventually(t, "all are found", func() bool {
			runtime.GC()
			return p.Stats().Forgotten == 5
		})
		requireTold(t, log.String(), 5, false)
	}
	opts := func(log *syncBuffer) pool.Option {
		return pool.WithWorkers(worker.WithStartTimeout(time.Minute), worker.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	}
	t.Run("shm", func(t *testing.T) {
		var log syncBuffer
		p, err := pool.New(t.Context(), 2, worker.Self("forgetful"), shm.Driver{}, opts(&log))
		test(t, p, err, &log)
	})
	t.Run("socket", func(t *testing.T) {
		var log syncBuffer
		p, err := pool.New(t.Context(), 2, worker.Self("forgetful"), socket.Driver{}, opts(&log))
		test(t, p, err, &log)
	})
}
