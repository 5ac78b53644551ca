package broadcast

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// isDone reports whether the peer says that it is.
func isDone(p *Peer) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// checkCutOff checks that a reader that was cut off has missed nothing up to some record, and is told then.
func checkCutOff(t *testing.T, f *follower) {
	t.Helper()
	require.ErrorIs(t, f.until(watchdog(t), f.next+1<<40), ErrCutOff)
	require.Zero(t, f.gap)
	_, ok, err := f.r.Next()
	require.False(t, ok)
	require.Equal(t, ErrCutOff, err, "for good")
	require.NoError(t, f.r.Wait(watchdog(t)))
}

// A reliable reader that does not read keeps the writer waiting as long as it may, whether the
// writer blocks or only tries. Another one loses nothing.
func TestCutOffByPatience(t *testing.T) {
	for _, mode := range waits {
		for _, try := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", mode, try), func(t *testing.T) {
				ctx := watchdog(t)
				seg, w := newWriter(t, MinSize, starts[rand.IntN(len(starts))])
				w.SetWait(mode)
				const max, patience = 200, 30 * time.Millisecond
				slowOwn, goodOwn := newOwn(t), newOwn(t)
				slow := follow(newReader(t, seg, slowOwn, Now), max)
				good := follow(newReader(t, seg, goodOwn, Now), max)
				slowPeer, err := w.Add(slowOwn, Reliable(patience))
				require.NoError(t, err)
				goodPeer, err := w.Add(goodOwn, Reliable(0))
				require.NoError(t, err)
				n := uint64(500)
				end := good.next + n
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := good.until(ctx, end); err != nil {
						t.Error(err)
					}
				})
				read := min(n, uint64(rand.IntN(10)))
				require.NoError(t, writeSome(w, 10, max, func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) }))
				require.NoError(t, slow.until(ctx, slow.next+read))
				var longest time.Duration
				require.NoError(t, writeSome(w, int(n-10), max, func(tag byte, payload []byte) error {
					begin := time.Now()
					defer func() { longest = longer(longest, time.Since(begin)) }()
					if !try {
						return w.Send(ctx, tag, payload)
					}
					for {
						if err := w.Write(tag, payload); err != ErrFull || ctx.Err() != nil {
							return err
						}
						time.Sleep(10 * time.Microsecond)
					}
				}))
				wg.Wait()
				require.GreaterOrEqual(t, longest, patience, "the writer was patient")
				require.Zero(t, good.gap)
				require.NoError(t, goodPeer.Err())
				require.False(t, isDone(goodPeer))
				require.True(t, isDone(slowPeer))
				var why *SlowError
				require.ErrorAs(t, slowPeer.Err(), &why)
				require.GreaterOrEqual(t, why.Waited, patience)
				require.NotZero(t, why.Lag)
				checkCutOff(t, slow)
				require.Zero(t, slowPeer.Lag())
			})
		}
	}
}

func longer(a, b time.Duration) time.Duration { return max(a, b) }

// A reader that makes way in time is not cut off, however often it is late.
func TestPatienceBeginsAnew(t *testing.T) {
	ctx := watchdog(t)
	seg, w := newWriter(t, MinSize, Point{})
	own := newOwn(t)
	f := follow(newReader(t, seg, own, Now), 200)
	p, err := w.Add(own, Reliable(time.Minute))
	require.NoError(t, err)
	require.NoError(t, writeSome(w, 300, 200, func(tag byte, payload []byte) error {
		for {
			err := w.Write(tag, payload)
			if err != ErrFull {
				return err
			}
			w.mu.Lock()
			blocked := p.blocked
			p.blocked -= 40 * time.Second // as if it had waited so long
			w.mu.Unlock()
			require.NotZero(t, blocked)
			require.ErrorIs(t, w.Write(tag, payload), ErrFull)
			require.NoError(t, f.until(ctx, f.next+20))
			f.r.settle()
		}
	}))
	require.NoError(t, p.Err())
	require.Zero(t, f.gap)
}

// With a limit of bytes the writer does not wait at all.
func TestCutOffByLag(t *testing.T) {
	for _, limit := range []int{0, 1000, MinSize / 2, MinSize, 10 * MinSize} {
		seg, w := newWriter(t, MinSize, Point{})
		own := newOwn(t)
		f := follow(newReader(t, seg, own, Now), 100)
		p, err := w.Add(own, Reliable(0), MaxLag(limit))
		require.NoError(t, err)
		written := 0
		err = writeSome(w, 500, 100, func(tag byte, payload []byte) error {
			if p.Err() == nil {
				written += int(recordSize(uint64(len(payload))))
			}
			return w.Write(tag, payload)
		})
		if limit > MinSize {
			require.ErrorIs(t, err, ErrFull, "the limit is never reached")
			require.NoError(t, p.Err())
			continue
		}
		require.NoError(t, err)
		var why *SlowError
		require.ErrorAs(t, p.Err(), &why)
		require.Zero(t, why.Waited)
		require.InDelta(t, limit, written, MinSize/maxMarks+2*100)
		checkCutOff(t, f)
	}
}

// A blocked writer goes on when the reader that it waits for is removed, or leaves.
func TestRemoveUnblocks(t *testing.T) {
	for _, mode := range waits {
		for _, leave := range []bool{false, true} {
			ctx := watchdog(t)
			seg, w := newWriter(t, MinSize, Point{})
			w.SetWait(mode)
			own := newOwn(t)
			r := newReader(t, seg, own, Now)
			p, err := w.Add(own, Reliable(0))
			require.NoError(t, err)
			require.False(t, isDone(p))
			require.True(t, p.Reliable())
			done := make(chan error)
			go func() {
				done <- writeSome(w, 100, 100, func(tag byte, payload []byte) error { return w.Send(ctx, tag, payload) })
			}()
			for blocked := false; !blocked; time.Sleep(time.Microsecond) {
				w.mu.Lock()
				blocked = p.blocked != 0
				w.mu.Unlock()
			}
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
			if leave {
				r.Close()
				r.Close()
			} else {
				p.Remove()
				clear(own) // it is not looked at any more
			}
			require.NoError(t, <-done)
			if leave {
				require.Equal(t, ErrLeft, p.Err())
			} else {
				require.Equal(t, ErrRemoved, p.Err())
			}
			require.True(t, isDone(p))
			p.Remove()
			p.Remove()
		}
	}
}

// A reader that is asleep when it is removed is told.
func TestRemovedReaderIsTold(t *testing.T) {
	for _, mode := range waits {
		for _, opts := range [][]PeerOption{nil, {Reliable(0)}} {
			ctx := watchdog(t)
			seg, w := newWriter(t, MinSize, Point{})
			own := newOwn(t)
			r := newReader(t, seg, own, Now)
			r.SetWait(mode)
			p, err := w.Add(own, opts...)
			require.NoError(t, err)
			done := make(chan error)
			go func() {
				var err error
				for err == nil {
					if err = r.Wait(ctx); err == nil {
						_, _, err = r.Next()
					}
				}
				done <- err
			}()
			require.NoError(t, w.Write(1, nil))
			w.want(statePolling)
			for p.Lag() > 0 { // then it knows that it has been added
				time.Sleep(time.Microsecond)
			}
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
			p.Remove()
			require.Equal(t, ErrCutOff, <-done)
		}
	}
}

// A writer waits for a reliable reader from Add on, also when the reader joins later.
func TestJoinAfterAdd(t *testing.T) {
	for range 50 {
		seg, w := newWriter(t, MinSize, starts[rand.IntN(len(starts))])
		const max = 100
		write := func(n int) error {
			return writeSome(w, n, max, w.Write)
		}
		require.NoError(t, write(rand.IntN(500)))
		own := newOwn(t)
		p, err := w.Add(own, Reliable(0))
		require.NoError(t, err)
		from := w.Point()
		require.ErrorIs(t, write(1000), ErrFull)
		require.Zero(t, p.Lag())
		for _, join := range []Join{At(from), At(p.Joined()), Oldest, Now} {
			f := follow(newReader(t, seg, nil, join), max)
			require.NoError(t, f.until(watchdog(t), w.Point().Sequence))
			require.Zero(t, f.gap)
		}
		f := follow(newReader(t, seg, own, At(from)), max)
		require.NotZero(t, p.Lag())
		require.NoError(t, f.until(watchdog(t), w.Point().Sequence))
		require.Zero(t, f.gap)
	}
}

func TestAddRefuses(t *testing.T) {
	_, w := newWriter(t, MinSize, Point{})
	own := newOwn(t)
	p, err := w.Add(own)
	require.NoError(t, err)
	_, err = w.Add(own)
	require.ErrorIs(t, err, ErrSameReader)
	p.Remove()
	p, err = w.Add(own)
	require.NoError(t, err)
	peers := []*Peer{p}
	for len(peers) < MaxReaders {
		p, err = w.Add(newOwn(t))
		require.NoError(t, err)
		peers = append(peers, p)
	}
	_, err = w.Add(newOwn(t))
	require.ErrorIs(t, err, ErrTooManyReaders)
	peers[100].Remove()
	_, err = w.Add(newOwn(t))
	require.NoError(t, err)
	for name, spoil := range map[string]func(b []byte) []byte{
		"short":     func(b []byte) []byte { return b[:ReaderSize-8] },
		"long":      func(b []byte) []byte { return append(b, 0) },
		"unaligned": func(b []byte) []byte { return append(b, make([]byte, 8)...)[8:] },
		"magic":     func(b []byte) []byte { b[0]++; return b },
		"version":   func(b []byte) []byte { b[8]++; return b },
		"id":        func(b []byte) []byte { atomic.StoreUint64(shared.At64(b, offID), 0); return b },
	} {
		_, err := w.Add(spoil(newOwn(t)))
		require.ErrorIs(t, err, ErrLayout, name)
	}
	w.Close()
	_, err = w.Add(newOwn(t))
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, writeSome(w, 100, 100, func(tag byte, payload []byte) error { return w.Send(context.Background(), tag, payload) }), ErrClosed)
}
