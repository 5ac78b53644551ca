package gather

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

// Per-producer order, nothing lost, nothing doubled, counts exact, each end reported once: while
// producers of all sizes send, come, end and are removed, on any number of processors.
func TestOracle(t *testing.T) {
	ctx := watchdog(t)
	for _, procs := range []int{1, 2, 4} {
		for _, wait := range waits {
			func() {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				oracle(ctx, t, wait)
			}()
		}
	}
}

// sender is one producer of the oracle.
type sender struct {
	sent    uint64 // written by the producer before it interrupts its consumer
	removed bool   // Remove was called: not all is read
	got     uint64
	reports int
}

func oracle(ctx context.Context, t *testing.T, wait ring.Wait) {
	var g Consumer[*sender]
	g.SetWait(wait)
	g.SetQuantum(1+rand.IntN(20), 1+rand.IntN(5000))
	var mu sync.Mutex
	var senders []*sender
	var producing sync.WaitGroup
	start := func(r *rand.Rand) {
		p, c := pair(t, ring.MinSize<<r.IntN(3))
		p.SetWait(wait)
		s := &sender{removed: r.IntN(4) == 0}
		mu.Lock()
		senders = append(senders, s)
		mu.Unlock()
		if err := g.Add(c, s); err != nil {
			t.Error(err)
		}
		count := r.IntN(scaled(3000)) + 1
		at := r.IntN(count)
		for n := range count {
			if s.removed && n == at {
				if !g.Remove(s) {
					t.Error("not there")
				}
				p.Interrupt(errEnd) // for nobody reads any more
			}
			if err := p.SendBatched(ctx, 0, number(s.sent, r.IntN(200)), nil); err != nil {
				if !s.removed {
					t.Error(err)
				}
				break
			}
			s.sent++
			if r.IntN(3) > 0 {
				p.Publish()
			}
			if r.IntN(20) == 0 {
				runtime.Gosched()
			}
		}
		p.Publish()
		if !s.removed {
			c.Interrupt(errEnd)
		}
	}
	for i := range 6 {
		producing.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
			for range 3 {
				start(r)
			}
		})
	}
	go func() {
		producing.Wait()
		g.Interrupt(errEnd)
	}()
	for {
		r, s, ok, err := g.Next()
		switch {
		case err != nil:
			s.reports++
			if s.removed {
				require.ErrorIs(t, err, ErrRemoved)
			} else {
				require.ErrorIs(t, err, errEnd)
			}
		case ok:
			require.Zero(t, s.reports, "a record after the report")
			require.Equal(t, s.got, numberOf(t, r.Data))
			s.got++
		default:
			if err = g.Wait(ctx); err == nil {
				continue
			}
			require.ErrorIs(t, err, errEnd)
			require.Zero(t, g.Len())
			for i, s := range senders {
				require.Equal(t, 1, s.reports, "producer %d", i)
				require.LessOrEqual(t, s.got, s.sent)
				if !s.removed {
					require.Equal(t, s.sent, s.got, "producer %d", i)
				}
			}
			require.Len(t, senders, 18)
			return
		}
	}
}
