package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What a worker counts.
var (
	// Sink counts the messages that it gets, and SinkInPlace does it in place.
	Sink        = ipc.NewMethod[[]byte, []byte]("bench.sink", ipc.WithCodec(ipc.Raw))
	SinkInPlace = ipc.NewMethod[[]byte, []byte]("bench.sink.inplace", ipc.WithCodec(ipc.Raw))
	// tallyOf returns the tally and starts a new one.
	tallyOf = ipc.NewMethod[tallyRequest, Tally]("bench.tally")
)

type tallyRequest struct{ Reset bool }

func handleSinks(s *worker.Server) {
	var mu sync.Mutex
	var got Tally
	worker.Handle(s, Sink, func(_ context.Context, b []byte) ([]byte, error) {
		mu.Lock()
		got.Add(b)
		mu.Unlock()
		return nil, nil
	})
	worker.HandleInPlace(s, SinkInPlace, func(_ context.Context, call worker.InPlace) error {
		mu.Lock()
		got.Add(call.Request())
		mu.Unlock()
		return nil
	})
	worker.Handle(s, tallyOf, func(_ context.Context, r tallyRequest) (Tally, error) {
		mu.Lock()
		defer mu.Unlock()
		t := got
		if r.Reset {
			got = Tally{}
		}
		return t, nil
	})
}

const (
	// ClockEvery is how many messages go one way between two looks at the clock.
	ClockEvery = 64
	// arrival is for the last ones to be handled.
	arrival = 10 * time.Second
)

// Notify returns what notifies m for a time, in batches unless they are of 1.
func Notify(m *ipc.Method[[]byte, []byte], batch int) func(context.Context, *Worker, int, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, w *Worker, size int, d time.Duration) (measure.Sample, error) {
		message := make([]byte, size)
		var seq uint64
		send := func(c ipc.Caller) error {
			for range max(batch, ClockEvery) {
				Stamp(message, seq)
				if err := m.Notify(ctx, c, message); err != nil {
					return err
				}
				seq++
			}
			return nil
		}
		if _, err := tallyOf.Call(ctx, w, tallyRequest{Reset: true}); err != nil {
			return measure.Sample{}, w.Blame(err)
		}
		return w.Measure(ctx, func(s *measure.Sample) error {
			start := measure.Now()
			for seq == 0 || measure.Now()-start < d {
				var err error
				if batch > 1 {
					err = ipc.Batch(ctx, w, send)
				} else {
					err = send(w)
				}
				if err != nil {
					return err
				}
			}
			// Handlers may run beside each other, so the call may overtake some.
			want := Expect(size, seq)
			var got Tally
			for got.Messages < seq {
				var err error
				if got, err = tallyOf.Call(ctx, w, tallyRequest{}); err != nil {
					return err
				}
				if measure.Now()-start > d+arrival {
					err = errors.New("not all have arrived")
				}
				if err != nil {
					return fmt.Errorf("%w: %w: sent %v, got %v", ErrGarbled, err, want, got)
				}
			}
			s.Busy = measure.Now() - start
			if got != want {
				return fmt.Errorf("%w: sent %v, got %v", ErrGarbled, want, got)
			}
			s.Ops, s.Bytes = int64(seq), int64(got.Bytes)
			return nil
		})
	}
}
