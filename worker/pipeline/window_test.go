//go:build unix

package pipeline_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// unreliable is a caller whose calls fail now and then, before or after the worker has got them.
type unreliable struct {
	ipc.Caller
	mu     sync.Mutex
	random *rand.Rand
	pid    int
}

func (u *unreliable) Invoke(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	u.mu.Lock()
	what, pause := u.random.IntN(60), u.random.IntN(5)
	u.pid++
	died := &ipc.ExitError{PID: u.pid, Program: "unreliable", Code: 2}
	u.mu.Unlock()
	for range pause {
		runtime.Gosched()
	}
	if what < 3 {
		overwrite(memory)
	}
	switch what {
	case 0:
		return nil, ipc.Errorf(ipc.CodeResourceExhausted, "tandem: the queue is full")
	case 1:
		return nil, died
	case 2:
		return nil, fmt.Errorf("no link: %w", ipc.ErrPeerGone)
	}
	res, err := u.Caller.Invoke(ctx, inv, request, memory)
	if what == 3 {
		overwrite(res) // it may be the same memory
		return nil, died
	}
	return res, err
}

// overwrite writes into memory that a caller has taken over, as others may that get it next.
func overwrite(b []byte) {
	b = b[:cap(b)]
	for i := range b {
		b[i] = 0xff
	}
}

// What stages hold never exceeds their windows, whatever their options are, and whatever calls and records fail; and
// what is counted as held is given back when all is through.
func TestWindowAccounts(t *testing.T) {
	twice := ipc.NewMethod[[]byte, []byte]("test.twice", ipc.WithCodec(ipc.Raw)) // fails for odd records
	server := worker.NewServer(worker.WithServerLogger(slog.New(slog.DiscardHandler)))
	pipeline.Handle(server, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	pipeline.Handle(server, twice, func(_ context.Context, b []byte) ([]byte, error) {
		if b[0]%16 == 1 {
			return nil, io.ErrUnexpectedEOF
		}
		return b, nil
	})
	local, err := worker.Local(server)
	require.NoError(t, err)
	defer local.Close()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			const records = 1500
			sizes := make([]int, records)
			for i := range sizes {
				sizes[i] = 8 + random.IntN(1<<(1+random.IntN(10)))
			}
			source := func(yield func([]byte, error) bool) {
				r := make([]byte, 2048)
				for i, n := range sizes {
					binary.LittleEndian.PutUint64(r, uint64(i))
					if !yield(r[:n], nil) {
						return
					}
				}
			}
			c := &unreliable{Caller: local, random: rand.New(rand.NewPCG(seed, 8))}
			method, excess := echo, int64(1)
			var left struct {
				sync.Mutex
				n int
			}
			leave := func(context.Context, pipeline.Failure[[]byte]) error {
				left.Lock()
				defer left.Unlock()
				left.n++
				return nil
			}
			onError := pipeline.OnError(func(_ context.Context, f pipeline.Failure[[]byte]) pipeline.Action {
				switch {
				case f.Attempt == 1 && f.Record[0]%32 == 1:
					return pipeline.Retry(0)
				case f.Record[0]%64 == 1:
					return pipeline.Bury
				}
				_ = leave(nil, f)
				return pipeline.Skip
			})
			if seed%2 == 1 {
				method, excess = twice, 2 // what fails has no answer, and so others count for less before they have theirs
			}
			options := func() []pipeline.Option {
				opts := []pipeline.Option{
					pipeline.Window(int64(5000 + random.IntN(60_000))), pipeline.Deaths(1 << 30), pipeline.InFlight(1 + random.IntN(8)),
					pipeline.BatchBy(pipeline.Batches{Records: 1 + random.IntN(200), Bytes: 100 + random.IntN(20_000)}),
					onError, pipeline.DeadLetter(leave),
				}
				switch random.IntN(3) {
				case 1:
					opts = append(opts, pipeline.Ordered())
				case 2:
					opts = append(opts, pipeline.By(func(b []byte) string { return string(b[:1]) }))
				}
				return opts
			}
			out := pipeline.Through(pipeline.Through(pipeline.From(source), method, c, options()...), echo, c, options()...)

			over := make(chan struct{})
			var sampler sync.WaitGroup
			sampler.Go(func() {
				for {
					for _, s := range out.Stats().Stages {
						if s.Held < 0 || s.Held > s.Window*excess || s.Queued < 0 || s.InFlight < 0 || s.Held == 0 && s.Queued > 0 {
							t.Errorf("held %d of %d, queued %d, %d in flight", s.Held, s.Window, s.Queued, s.InFlight)
							return
						}
					}
					select {
					case <-over:
						return
					default:
						runtime.Gosched()
					}
				}
			})
			got := 0
			err := within(t, func() error {
				return out.Into(t.Context(), sinkFunc[[]byte](func(_ context.Context, items []pipeline.Item[[]byte]) error {
					got += len(items)
					for _, item := range items {
						if uint64(len(item.Record)) != uint64(sizes[item.ID.Pos]) || binary.LittleEndian.Uint64(item.Record) != item.ID.Pos {
							return errors.New("not what it was")
						}
					}
					return nil
				}))
			})
			close(over)
			sampler.Wait()
			require.NoError(t, err)
			require.Equal(t, records, got+left.n)
			require.Equal(t, method == twice, left.n > 0)
			for _, s := range out.Stats().Stages {
				require.Zero(t, s.Held)
				require.Zero(t, s.Queued)
				require.Zero(t, s.InFlight)
			}
		})
	}
}
