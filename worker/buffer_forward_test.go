//go:build unix

package worker_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var bufferSoak = flag.Duration("buffer.soak", 3*time.Second, "for how long TestBufferSoak kills workers")

// A buffer of one worker goes on to another, and both, and the host, have the same memory. Its maker
// learns when the others have released it or died, and they keep it when the maker dies.
func TestBufferForward(t *testing.T) {
	ctx := context.Background()
	s := spawnerFor("shm", shm.Driver{})
	a := startLife(t, s)
	start := func() client {
		w, err := s.spawn(ctx, worker.Self("life"))
		require.NoError(t, err)
		t.Cleanup(func() { w.Close() })
		return w
	}
	buffersOf := func(w client) int {
		st, err := lifeCount.Call(ctx, w, "")
		require.NoError(t, err)
		return st.Arena.Buffers
	}
	keptBy := func(w client) int {
		res, err := lifeDo.Call(ctx, w, lifeMessage{How: "kept f"})
		require.NoError(t, err)
		return res.Size
	}
	// made returns a buffer that a has made.
	made := func() ipc.Buffer {
		res, err := lifeDo.Call(ctx, a.w, lifeMessage{How: "new", Size: 1000})
		require.NoError(t, err)
		for _, b := range res.More {
			b.Release()
		}
		return res.B
	}
	for _, end := range []string{"released", "killed", "closed"} {
		t.Run(end, func(t *testing.T) {
			b := start()
			buf := made()
			_, err := lifeDo.Call(ctx, b, lifeMessage{How: "keep f", B: buf})
			require.NoError(t, err)
			// b sends it back: it is the same memory, wherever one looks.
			back, err := lifeDo.Call(ctx, b, lifeMessage{How: "echo", B: buf})
			require.NoError(t, err)
			require.Equal(t, buf.Bytes(), back.B.Bytes())
			back.release()
			buf.Release()
			eventually(t, "only b has it", func() bool { return buffersOf(a.w) == 1 })
			switch end {
			case "released":
				_, err := lifeDo.Call(ctx, b, lifeMessage{How: "drop f"})
				require.NoError(t, err)
			case "killed":
				require.NoError(t, syscall.Kill(b.PID(), syscall.SIGKILL))
			case "closed":
				require.NoError(t, b.Close())
			}
			eventually(t, "its maker knows", func() bool { return buffersOf(a.w) == 0 })
			_ = b.Close() // which unmaps what came from it
		})
	}
	t.Run("the maker dies", func(t *testing.T) {
		b, buf := start(), made()
		_, err := lifeDo.Call(ctx, b, lifeMessage{How: "keep f", B: buf})
		require.NoError(t, err)
		before, kept := append([]byte(nil), buf.Bytes()...), keptBy(b)
		require.NoError(t, syscall.Kill(a.w.PID(), syscall.SIGKILL))
		eventually(t, "the host knows", func() bool { return !a.w.Connected() })
		require.Error(t, a.w.Close())
		require.Equal(t, before, buf.Bytes())
		require.Equal(t, kept, keptBy(b))
		res, err := lifeDo.Call(ctx, b, lifeMessage{How: "echo", B: buf}) // it goes on still
		require.NoError(t, err)
		require.Equal(t, before, res.B.Bytes())
		res.release()
		buf.Release()
		require.Equal(t, kept, keptBy(b))
		_, err = lifeDo.Call(ctx, b, lifeMessage{How: "drop f"})
		require.NoError(t, err)
		require.NoError(t, b.Close())
		eventually(t, "nothing is mapped", func() bool { return mappedMemory() <= a.mapped })
	})
}

// Workers are killed at any time, with buffers of all sizes on their way to them, from one to the
// other, and back. In the end every byte of the arena is accounted for.
func TestBufferSoak(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	arena := newArena(t, ipc.ArenaOptions{Limit: 64 << 20})
	before := mappedMemory()
	var workers []client
	for range 3 {
		w, err := spawnerFor("shm", shm.Driver{}).spawn(ctx, worker.Self("life"), worker.WithArena(arena),
			worker.WithRestart(worker.Restart{Delay: time.Millisecond, MaxDelay: 10 * time.Millisecond, MaxRestarts: -1}))
		require.NoError(t, err)
		workers = append(workers, w)
	}
	any := func() client { return workers[rand.IntN(len(workers))] }
	var calls, failed, kills atomic.Int64
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			var held []ipc.Buffer
			defer func() {
				for _, b := range held {
					b.Release()
				}
			}()
			for ctx.Err() == nil {
				size := 1 + rand.IntN(1<<rand.IntN(22))
				b, err := arena.Alloc(ctx, size)
				if err != nil {
					continue
				}
				seed := byte(rand.Uint32())
				b.Bytes()[0], b.Bytes()[size-1] = seed, seed
				how := []string{"echo", "both", "retained", "error", "panic", "block x", "result and error"}[rand.IntN(7)]
				call, cancel := context.WithTimeout(ctx, time.Duration(1+rand.IntN(50))*time.Millisecond)
				res, err := lifeDo.Call(call, any(), lifeMessage{How: how, Size: 1 + rand.IntN(1<<16), B: b, More: []ipc.Buffer{b}})
				cancel()
				if calls.Add(1); err != nil {
					b.Release()
					failed.Add(1)
					continue
				}
				call, cancel = context.WithTimeout(ctx, time.Second)
				again, err := lifeDo.Call(call, any(), lifeMessage{How: "echo", B: res.B, More: res.More}) // on to another one
				cancel()
				if how == "echo" && (res.B.Bytes()[0] != seed || res.B.Bytes()[size-1] != seed) {
					t.Error("a buffer that came back is another one")
				}
				if err == nil && how == "echo" && (again.B.Len() != size || again.B.Bytes()[size-1] != seed) {
					t.Error("a buffer that was sent on is another one")
				}
				again.release()
				b.Release() // not before: what comes back is kept for us by a worker that may die
				for _, b := range res.More {
					b.Release()
				}
				if held = append(held, res.B); len(held) > 8 {
					held[0].Release()
					held = held[1:]
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond):
			case <-ctx.Done():
				return
			}
			if pid := any().PID(); pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills.Add(1)
			}
		}
	})
	time.Sleep(*bufferSoak) // how long it goes on
	stop()
	all.Wait()
	for _, w := range workers {
		_ = w.Close() // it may have been killed just now
	}
	t.Logf("%d calls, of which %d have failed, and %d workers killed", calls.Load(), failed.Load(), kills.Load())
	require.Positive(t, calls.Load()-failed.Load())
	arena.Trim()
	st := arena.Stats()
	require.Zero(t, st.Used)
	require.Zero(t, st.Reserved)
	require.Empty(t, st.Holders)
	eventually(t, "nothing is mapped", func() bool { return mappedMemory() <= before })
}
