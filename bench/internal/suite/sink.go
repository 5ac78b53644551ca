package suite

import (
	"bytes"
	"context"
	"fmt"
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
	// tallyOf returns the tally of the messages up to the last one, when that has come.
	tallyOf = ipc.NewMethod[struct{}, Tally]("bench.tally")
)

// lastMessage follows all others. It is none that Stamp makes.
var lastMessage = []byte{0xff}

// A sink needs no lock: a handler gets the notifications of one sender in order, one at a
// time.
type sink struct {
	got   Tally
	whole chan Tally // of capacity 1
}

func (s *sink) add(message []byte) {
	if !bytes.Equal(message, lastMessage) {
		s.got.Add(message)
		return
	}
	select {
	case <-s.whole: // nobody has asked for it
	default:
	}
	s.whole <- s.got
	s.got = Tally{}
}

func handleSinks(s *worker.Server) {
	whole := make(chan Tally, 1)
	copying, inPlace := sink{whole: whole}, sink{whole: whole}
	worker.Handle(s, Sink, func(_ context.Context, b []byte) ([]byte, error) {
		copying.add(b)
		return nil, nil
	})
	worker.HandleInPlace(s, SinkInPlace, func(_ context.Context, call worker.InPlace) error {
		inPlace.add(call.Request())
		return nil
	})
	worker.Handle(s, tallyOf, func(ctx context.Context, _ struct{}) (Tally, error) {
		select {
		case t := <-whole:
			return t, nil
		case <-ctx.Done():
			return Tally{}, ctx.Err()
		}
	})
}

// tally tells the worker that all messages of m have been sent, and returns its tally.
func tally(ctx context.Context, w *Worker, m *ipc.Method[[]byte, []byte]) (Tally, error) {
	if err := m.Notify(ctx, w, lastMessage); err != nil {
		return Tally{}, err
	}
	return tallyOf.Call(ctx, w, struct{}{}, ipc.WithTimeout(arrival))
}

const (
	// ClockEvery is how many messages go one way between two looks at the clock.
	ClockEvery = 64
	// arrival is for the last ones to be handled.
	arrival = 30 * time.Second
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
		if _, err := tally(ctx, w, m); err != nil { // of what was left by a run that has failed
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
			got, err := tally(ctx, w, m)
			if err != nil {
				return err
			}
			s.Busy = measure.Now() - start
			if want := Expect(size, seq); got != want {
				return fmt.Errorf("%w: sent %v, got %v", ErrGarbled, want, got)
			}
			s.Ops, s.Bytes = int64(seq), int64(got.Bytes)
			return nil
		})
	}
}
