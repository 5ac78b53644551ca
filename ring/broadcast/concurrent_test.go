package broadcast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

var waits = []ring.Wait{ring.WaitAdaptive, ring.WaitSpin, ring.WaitPark}

// One writer at full speed, readers of all kinds.
func TestConcurrent(t *testing.T) {
	for _, size := range []int{MinSize, 1 << 16} {
		for _, mode := range waits {
			t.Run(fmt.Sprintf("%d/%v", size, mode), func(t *testing.T) {
				ctx := watchdog(t)
				start := starts[rand.IntN(len(starts))]
				seg, w := newWriter(t, size, start)
				w.SetWait(mode)
				n, max := scaled(20000), 300
				var wg sync.WaitGroup
				for i := range 6 {
					kind := i % 3 // without a segment, lossy, reliable
					var own []byte
					if kind > 0 {
						own = newOwn(t)
					}
					r := newReader(t, seg, own, Now)
					r.SetWait(mode)
					switch kind {
					case 1:
						_, err := w.Add(own)
						require.NoError(t, err)
					case 2:
						_, err := w.Add(own, Reliable(0))
						require.NoError(t, err)
					}
					wg.Go(func() {
						f := follow(r, max)
						if err := f.until(ctx, start.Sequence+uint64(n)); err != nil {
							t.Errorf("reader %d: %v", i, err)
						}
						if kind == 2 && f.gap > 0 {
							t.Errorf("reader %d has lost %d", i, f.gap)
						}
					})
				}
				require.NoError(t, writeSome(w, n, max, func(tag byte, payload []byte) error {
					return w.Send(ctx, tag, payload)
				}))
				wg.Wait()
			})
		}
	}
}

// Each record is seen by readers that may be asleep, before the next one is published.
func TestNoLostWakeUp(t *testing.T) {
	for _, readers := range []int{1, 2, 5, 40} {
		for _, mode := range []ring.Wait{ring.WaitAdaptive, ring.WaitPark} {
			t.Run(fmt.Sprintf("%d/%v", readers, mode), func(t *testing.T) {
				ctx := watchdog(t)
				seg, w := newWriter(t, MinSize, Point{})
				n := scaled(10000 / (readers + 4))
				var seen atomic.Int64
				var wg sync.WaitGroup
				for i := range readers {
					own := newOwn(t)
					r := newReader(t, seg, own, Now)
					r.SetWait(mode)
					var opts []PeerOption
					if i%2 == 1 {
						opts = []PeerOption{Reliable(0)}
					}
					_, err := w.Add(own, opts...)
					require.NoError(t, err)
					wg.Go(func() {
						for got := 0; got < n; {
							rec, ok, err := r.Next()
							switch {
							case err != nil || rec.Lost > 0:
								t.Error(rec.Lost, err)
								return
							case ok:
								got++
								seen.Add(1)
							default:
								if err := r.Wait(ctx); err != nil {
									t.Error(err)
									return
								}
							}
						}
					})
				}
				for i := range n {
					require.NoError(t, w.Write(1, []byte{1}))
					for range rand.IntN(3) * 10 {
						if i%3 == 0 {
							runtime.Gosched()
						}
					}
					for seen.Load() < int64((i+1)*readers) && !t.Failed() {
						runtime.Gosched()
					}
					if i%8 == 0 { // they all go to sleep
						time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
					}
				}
				wg.Wait()
			})
		}
	}
}

// The writer, which may be asleep, is woken by each reliable reader that has kept it waiting.
func TestNoLostSpace(t *testing.T) {
	for _, mode := range waits {
		t.Run(mode.String(), func(t *testing.T) {
			ctx := watchdog(t)
			seg, w := newWriter(t, MinSize, Point{})
			w.SetWait(mode)
			n := scaled(3000)
			var wg sync.WaitGroup
			for range 3 {
				own := newOwn(t)
				r := newReader(t, seg, own, Now)
				r.SetWait(waits[rand.IntN(len(waits))])
				_, err := w.Add(own, Reliable(0))
				require.NoError(t, err)
				wg.Go(func() {
					f := follow(r, w.MaxRecord())
					for f.next < uint64(n) {
						if rand.IntN(20) == 0 {
							time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
						}
						if err := f.until(ctx, min(uint64(n), f.next+uint64(rand.IntN(10)))); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			require.NoError(t, writeSome(w, n, w.MaxRecord(), func(tag byte, payload []byte) error {
				return w.Send(ctx, tag, payload)
			}))
			wg.Wait()
		})
	}
}

// Readers come and go, in all ways, while the writer writes. Those that are reliable lose nothing
// between Add and Remove.
func TestJoinAndLeave(t *testing.T) {
	ctx := watchdog(t)
	const max = 200
	seg, w := newWriter(t, 1<<14, Point{Sequence: 7})
	var stop atomic.Bool
	var writer, wg sync.WaitGroup
	writer.Go(func() {
		for !stop.Load() {
			if err := writeSome(w, 100, max, func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 4 {
		wg.Go(func() {
			for range scaled(300) {
				own := make([]byte, ReaderSize)
				if err := FormatReader(own); err != nil {
					t.Error(err)
				}
				first := rand.IntN(2) == 0
				reliable := i%2 == 0
				var opts []PeerOption
				if reliable {
					opts = []PeerOption{Reliable(0)}
				}
				var p *Peer
				var err error
				join := []Join{Now, Oldest}[rand.IntN(2)]
				if first {
					if p, err = w.Add(own, opts...); err != nil {
						t.Error(err)
						return
					}
					join = []Join{Now, At(p.Joined())}[rand.IntN(2)]
				}
				r, err := NewReader(seg, own, join)
				if err != nil {
					t.Error(err)
					return
				}
				if !first {
					if p, err = w.Add(own, opts...); err != nil {
						t.Error(err)
						return
					}
				}
				f := follow(r, max)
				err = f.until(ctx, f.next+uint64(rand.IntN(300)))
				if err != nil {
					t.Error(err)
					return
				}
				if reliable && first && f.gap > 0 {
					t.Errorf("%d records lost", f.gap)
				}
				if rand.IntN(2) == 0 {
					r.Close()
				}
				p.Remove()
				if rand.IntN(10) == 0 {
					for err == nil { // it finds out, at the latest when there is nothing more to read
						if _, ok, e := r.Next(); e != nil || !ok {
							if err = e; err == nil {
								err = r.Wait(ctx)
							}
						}
					}
					if !errors.Is(err, ErrCutOff) && !errors.Is(err, ErrLeft) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	writer.Wait()
	require.Nil(t, w.peers.Load(), "nothing is left of the readers")
	for i := range MaxReaders {
		require.Nil(t, w.places[i])
	}
}

var errStop = errors.New("stop")

// A wait ends by its context and by Interrupt, whoever waits and however.
func TestInterrupt(t *testing.T) {
	for _, mode := range waits {
		t.Run(mode.String(), func(t *testing.T) {
			ctx := watchdog(t)
			seg, w := newWriter(t, MinSize, Point{})
			w.SetWait(mode)
			var readers []*Reader
			for i := range 3 {
				var own []byte
				if i > 0 {
					own = newOwn(t)
				}
				r := newReader(t, seg, own, Now)
				if i > 0 {
					_, err := w.Add(own, Reliable(0))
					require.NoError(t, err)
				}
				r.SetWait(mode)
				readers = append(readers, r)
			}
			run := func(wait func(context.Context) error, interrupt func(error)) {
				for range scaled(30) {
					short, cancel := context.WithCancel(ctx)
					done := make(chan error)
					go func() { done <- wait(short) }()
					time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
					cancel()
					require.ErrorIs(t, <-done, context.Canceled)
				}
				done := make(chan error)
				go func() { done <- wait(ctx) }()
				time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
				interrupt(errStop)
				require.Equal(t, errStop, <-done)
				require.Equal(t, errStop, wait(ctx))
			}
			for _, r := range readers {
				run(r.Wait, r.Interrupt)
			}
			for w.Write(1, make([]byte, 500)) == nil {
			}
			run(func(ctx context.Context) error { return w.Send(ctx, 1, make([]byte, 500)) }, w.Interrupt)
			// What is there is still read.
			for _, r := range readers {
				require.NoError(t, r.Wait(ctx))
				_, ok, err := r.Next()
				require.NoError(t, err)
				require.True(t, ok)
			}
		})
	}
}

// A waker that gets no processor keeps readers asleep only for so many records. In a process with one
// processor there is none.
func TestWakerGetsNoProcessor(t *testing.T) {
	for _, direct := range []bool{false, true} {
		seg, w := newWriter(t, 1<<16, Point{})
		w.waker.direct = direct
		if !direct {
			w.waker.state.Store(wakerStarting)
		}
		own := newOwn(t)
		r := newReader(t, seg, own, Now)
		r.SetWait(ring.WaitPark)
		p, err := w.Add(own)
		require.NoError(t, err)
		done := make(chan error)
		go func() { done <- r.Wait(watchdog(t)) }()
		for !p.parked(atomic.LoadUint32(p.waiting)) {
			runtime.Gosched()
		}
		for range maxUnseen {
			require.NoError(t, w.Write(1, nil))
		}
		require.NoError(t, <-done)
		w.waker.state.Store(wakerAsleep)
	}
}
