//go:build unix

package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// faulty is a caller whose calls are lost in many ways, before or after their handlers have run. It counts what it was given.
type faulty struct {
	ipc.Caller
	odds   int  // one of so many calls is lost
	refuse bool // some are refused, too, as by a pool whose queue is full

	mu          sync.Mutex
	random      *rand.Rand
	pid         int
	records     uint64 // that were sent
	exits, late uint64
}

func (f *faulty) Invoke(ctx context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	f.mu.Lock()
	for rest := request; len(rest) > 0; f.records++ {
		_, rest, _ = nextFrame(rest)
	}
	lost, after, kind := f.random.IntN(f.odds) == 0, f.random.IntN(2) == 0, f.random.IntN(2)
	if f.refuse {
		kind = f.random.IntN(4)
	}
	var err error
	if lost {
		switch kind {
		case 0:
			f.pid++
			f.exits++
			err = &ipc.ExitError{PID: f.pid, Code: 1}
		case 1:
			f.late++
			err = fmt.Errorf("too late: %w", context.DeadlineExceeded)
		case 2:
			err = ipc.NewError(ipc.CodeResourceExhausted, "the queue is full")
		case 3:
			err = fmt.Errorf("lost: %w", ipc.ErrPeerGone)
		}
	}
	f.mu.Unlock()
	if lost && (!after || kind == 2) {
		return memory, err
	}
	answer, failed := f.Caller.Invoke(ctx, call, request, memory)
	if lost {
		return answer, err
	}
	return answer, failed
}

// Whatever is lost, each record has one outcome, the figures of the stage add up to what was sent, and the window is empty in the end.
func TestReplayIsAccounted(t *testing.T) {
	shuffled := ipc.NewMethod[[]byte, []byte]("test.shuffled", ipc.WithCodec(ipc.Raw))
	var runs atomic.Uint64 // decide what handlers do
	s := worker.NewServer()
	Handle(s, shuffled, func(_ context.Context, b []byte) ([]byte, error) {
		if runs.Add(1)%23 == 0 {
			return nil, ipc.NewError(ipc.CodeInternal, "no")
		}
		return b, nil
	})
	client, err := worker.Local(s)
	require.NoError(t, err)
	defer client.Close()
	for name, opts := range map[string][]Option{
		"as they come": nil,
		"ordered":      {Ordered()},
		"by key":       {By(func(b []byte) string { return fmt.Sprint(len(b) % 7) })},
	} {
		for _, refuse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refused %v", name, refuse), func(t *testing.T) {
				f := &faulty{Caller: client, odds: 20, refuse: refuse, random: rand.New(rand.NewPCG(5, 6))}
				replay(t, f, shuffled, opts)
			})
		}
	}
}

func replay(t *testing.T, f *faulty, m *ipc.Method[[]byte, []byte], opts []Option) {
	const records, window = 4000, 32 << 10
	var mu sync.Mutex
	skipped, buried := make(map[ID]int), make(map[ID]int)
	choose := rand.New(rand.NewPCG(7, 8))
	opts = append([]Option{
		Window(window), BatchBy(Batches{Records: 32}), Deaths(1 << 30),
		OnError(func(_ context.Context, failed Failure[[]byte]) Action {
			mu.Lock()
			defer mu.Unlock()
			switch choose.IntN(4) {
			case 0:
				skipped[failed.ID]++
				return Skip
			case 1:
				return Bury
			}
			return Retry(0)
		}),
		DeadLetter(func(_ context.Context, failed Failure[[]byte]) error {
			mu.Lock()
			defer mu.Unlock()
			buried[failed.ID]++
			return nil
		}),
	}, opts...)
	sizes := rand.New(rand.NewPCG(9, 10))
	var bytesIn uint64
	flow := From(func(yield func([]byte, error) bool) {
		for i := range records {
			b := make([]byte, 8+sizes.IntN(100))
			binary.LittleEndian.PutUint64(b, uint64(i))
			bytesIn += uint64(len(b))
			if !yield(b, nil) {
				return
			}
		}
	})
	out := Through(flow, m, f, opts...)
	got := make(map[ID]int)
	var bytesOut uint64
	done := make(chan error, 1)
	go func() {
		done <- out.Into(context.Background(), sinkOf(func(items []Item[[]byte]) {
			for _, item := range items {
				got[item.ID]++
				bytesOut += uint64(len(item.Record))
				if binary.LittleEndian.Uint64(item.Record) != item.ID.Pos {
					t.Errorf("record %v has become number %d", item.ID, binary.LittleEndian.Uint64(item.Record))
				}
			}
		}))
	}()
	hang := time.After(90 * time.Second)
	for over := false; !over; runtime.Gosched() {
		select {
		case err := <-done:
			require.NoError(t, err)
			over = true
		case <-hang:
			t.Fatal("it hangs")
		default:
			for _, s := range out.Stats().Stages {
				// Answers are no larger than their requests, but fewer when records are left out; so the stage may
				// expect less of the next ones, though no less than nothing.
				require.LessOrEqual(t, s.Held, int64(2*window))
				require.GreaterOrEqual(t, s.Held, int64(s.Queued*perRecord))
			}
		}
	}
	for pos := range uint64(records) {
		id := ID{Pos: pos}
		require.Equal(t, 1, got[id]+skipped[id]+buried[id], "outcomes of record %v: %d taken, %d skipped, %d buried", id, got[id], skipped[id], buried[id])
	}
	s := out.Stats().Stages[0]
	require.Zero(t, s.Held)
	require.Zero(t, s.Queued)
	require.Zero(t, s.InFlight)
	require.EqualValues(t, records, out.Stats().Position)
	require.EqualValues(t, records, s.In)
	require.Equal(t, bytesIn, s.BytesIn)
	require.EqualValues(t, len(got), s.Out)
	require.Equal(t, bytesOut, s.BytesOut)
	require.EqualValues(t, len(skipped), s.Skipped)
	require.EqualValues(t, len(buried), s.DeadLetters)
	require.NotZero(t, s.Skipped)
	require.NotZero(t, s.DeadLetters)
	require.Equal(t, f.exits, s.Deaths)
	require.Equal(t, f.late, s.Hangs)
	require.NotZero(t, s.Deaths)
	require.NotZero(t, s.Hangs)
	require.NotZero(t, s.Retries)
	if f.refuse { // what was refused was not sent
		require.LessOrEqual(t, s.Retries, f.records-records)
	} else {
		require.Equal(t, f.records-records, s.Retries)
	}
}

// sinkOf is a sink of a function of many records.
type sinkOf func(items []Item[[]byte])

func (f sinkOf) Write(_ context.Context, items []Item[[]byte]) error {
	f(items)
	return nil
}
