package ring

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// grouped returns a group of n consumers, and their producers.
func grouped(tb testing.TB, n, ringSize int) (*Group, []*Consumer, []*Producer) {
	g := new(Group)
	var consumers []*Consumer
	var producers []*Producer
	for range n {
		p, c := newPair(tb, ringSize, 0)
		consumers, producers = append(consumers, c), append(producers, p)
		g.Add(c)
	}
	return g, consumers, producers
}

// waits are the ways to wait.
var waits = []Wait{WaitAdaptive, WaitPark, WaitSpin}

func TestGroupReturnsWhenOneIsReady(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range waits {
		g, consumers, producers := grouped(t, 5, MinSize)
		g.SetWait(wait)
		for i := range scaled(2000) {
			from := rand.IntN(len(producers))
			var wrote sync.WaitGroup
			wrote.Go(func() {
				if err := producers[from].Write(byte(i), nil); err != nil {
					t.Error(err)
				}
			})
			if i%2 == 0 { // it is there before
				wrote.Wait()
			}
			require.NoError(t, g.Wait(ctx))
			wrote.Wait()
			r, ok, err := consumers[from].Next()
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, byte(i), r.Tag)
			require.False(t, g.ready())
		}
	}
}

// No wake-up is lost, whoever publishes at whatever moment.
func TestGroupMissesNothing(t *testing.T) { groupMissesNothing(t, scaled(6000)) }

func groupMissesNothing(t *testing.T, records int) {
	ctx := watchdog(t)
	for _, wait := range waits {
		for _, n := range []int{1, 2, 16} {
			g, consumers, producers := grouped(t, n, MinSize)
			g.SetWait(wait)
			each := records / n
			if wait == WaitSpin {
				each = each/10 + 1 // with one processor each takes a switch of goroutines
			}
			var all sync.WaitGroup
			for _, p := range producers {
				p.SetWait(wait)
				all.Go(func() {
					r := rand.New(rand.NewPCG(uint64(n), 3))
					for i := range each {
						if err := p.Send(ctx, byte(i), make([]byte, r.IntN(100)), nil); err != nil {
							t.Error(err)
							return
						}
						for range r.IntN(100) {
							runtime.Gosched()
						}
					}
				})
			}
			got := make([]int, n)
			for left := n * each; left > 0; {
				require.NoError(t, g.Wait(ctx))
				for i, c := range consumers {
					for {
						r, ok, err := c.Next()
						require.NoError(t, err)
						if !ok {
							break
						}
						require.Equal(t, byte(got[i]), r.Tag)
						got[i]++
						left--
					}
				}
			}
			all.Wait()
		}
	}
}

func TestGroupEndsWaits(t *testing.T) {
	watchdog(t)
	ended := errors.New("ended")
	for _, wait := range waits {
		t.Run(wait.String(), func(t *testing.T) {
			for _, n := range []int{0, 1, 3} {
				g, consumers, producers := grouped(t, n, MinSize)
				g.SetWait(wait)
				g.Wake() // before it waits
				require.NoError(t, g.Wait(context.Background()))
				done := make(chan error, 1)
				begin := func(ctx context.Context) { go func() { done <- g.Wait(ctx) }() }
				begin(context.Background())
				g.Wake()
				require.NoError(t, <-done)

				ctx, cancel := context.WithCancel(context.Background())
				begin(ctx)
				cancel()
				require.ErrorIs(t, <-done, context.Canceled)
				require.ErrorIs(t, g.Wait(ctx), context.Canceled)

				if n > 0 {
					begin(context.Background())
					consumers[n-1].Interrupt(ended)
					require.NoError(t, <-done, "to look at who was interrupted")
					require.Same(t, ended, consumers[n-1].Interrupted())
					g.Remove(consumers[n-1])
					require.NoError(t, producers[n-1].Write(0, nil), "nobody rings a consumer that is out")
					require.Zero(t, atomic.LoadUint32(producers[n-1].waiting)&stateMask)
				}

				begin(context.Background())
				g.Interrupt(ended)
				require.Same(t, ended, <-done)
				require.Same(t, ended, g.Wait(context.Background()))
				if n > 1 { // what is there is read all the same
					require.NoError(t, producers[0].Write(0, nil))
					require.NoError(t, g.Wait(context.Background()))
				}
			}
		})
	}
}

// A consumer that was interrupted before it is added ends the wait.
func TestGroupOfInterrupted(t *testing.T) {
	_, c := newPair(t, MinSize, 0)
	c.Interrupt(errors.New("early"))
	var g Group
	g.Add(c)
	require.NoError(t, g.Wait(watchdog(t)))
	require.Panics(t, func() { new(Group).Add(c) })
	g.Remove(c)
	require.Panics(t, func() { g.Remove(c) })
	new(Group).Add(c)
}

// While the group waits, the producers have all of the memory that was read.
func TestGroupGivesMemoryBack(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range []Wait{WaitAdaptive, WaitPark} {
		g, consumers, producers := grouped(t, 3, MinSize)
		g.SetWait(wait)
		for range 3 {
			for i, p := range producers {
				require.NoError(t, p.Write(1, make([]byte, 1000)))
				_, ok, err := consumers[i].Next()
				require.True(t, ok)
				require.NoError(t, err)
			}
			done := make(chan error, 1)
			go func() { done <- g.Wait(ctx) }()
			for _, p := range producers {
				require.NoError(t, p.WaitSpace(ctx, p.MaxRecord()))
			}
			g.Wake()
			require.NoError(t, <-done)
		}
	}
}
