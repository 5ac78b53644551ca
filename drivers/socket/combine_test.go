//go:build linux

package socket

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// reads returns the next frame, and waits for it.
func reads(t *testing.T, l drivers.Link) drivers.Frame {
	t.Helper()
	for start := time.Now(); ; runtime.Gosched() {
		f, ok, err := Look(l)
		require.NoError(t, err)
		if ok {
			return f
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal("no frame arrives")
		}
	}
}

func note(tx uint64, size int) *drivers.Frame {
	return &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: make([]byte, size)}
}

// fillUp sends frames that are never cut until there is no room, and returns how many.
func fillUp(t *testing.T, l drivers.Link) (n int) {
	t.Helper()
	for ; ; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := l.Send(ctx, note(uint64(n), 1000))
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return n
		}
	}
}

// combines sends a frame while another sender holds the lock.
func combines(t *testing.T, l *link, f *drivers.Frame) {
	t.Helper()
	require.True(t, l.writer.lock.TryLock())
	l.writer.stalled.Store(false)
	require.NoError(t, l.Send(t.Context(), f))
	require.True(t, l.writer.hasCombined.Load(), "the frame was combined")
}

// A frame combined with that of a sender that gives up before its own turn is sent
// all the same, though nobody sends anything more.
func TestCombinedWithASenderThatGivesUp(t *testing.T) {
	a, b := Pair(t, 1<<24)
	l := a.(*link)
	n := fillUp(t, a)
	combines(t, l, note(1<<40, 10))
	l.writer.lock.Unlock() // as if the holder had just looked
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.Send(ctx, note(1<<41, 1000)), context.DeadlineExceeded)
	for i := range n {
		require.Equal(t, uint64(i), reads(t, b).Tx)
	}
	require.Equal(t, uint64(1<<40), reads(t, b).Tx)
}

// The same where the frame of the sender that gives up was cut.
func TestCombinedBehindAnAbandonedFrame(t *testing.T) {
	a, b := Pair(t, 1<<24)
	l := a.(*link)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.Send(ctx, note(1, 10<<20)), context.DeadlineExceeded)
	require.NotZero(t, l.writer.abandoned)
	combines(t, l, note(2, 10))
	unlocked := make(chan struct{})
	go func() { l.unlock(); close(unlocked) }()
	select {
	case <-unlocked:
	case <-time.After(20 * time.Second):
		t.Fatal("a sender that gave up never returns")
	}
	require.Equal(t, uint64(2), reads(t, b).Tx)
}

// A sender returns though others go on to add combined frames.
func TestSenderIsNotKept(t *testing.T) {
	a, b := Pair(t, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, ok, _ := Look(b)
			if !ok {
				runtime.Gosched()
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = a.Send(ctx, note(1, 100))
			}
		})
	}
	for range 2000 {
		require.NoError(t, a.Send(t.Context(), note(2, 100)))
	}
	cancel()
	a.Shutdown()
	wg.Wait()
}

// A goodbye is behind all that was sent before, and in the system.
func TestGoodbyeIsNotCombined(t *testing.T) {
	a, b := Pair(t, 1<<20)
	l := a.(*link)
	combines(t, l, note(1, 10))
	said := make(chan error)
	go func() { said <- a.Send(context.Background(), &drivers.Frame{Kind: drivers.KindGoodbye}) }()
	select {
	case <-said:
		t.Fatal("it was combined")
	case <-time.After(10 * time.Millisecond):
	}
	l.unlock()
	require.NoError(t, <-said)
	a.Shutdown()
	require.Equal(t, drivers.KindNotify, reads(t, b).Kind)
	require.Equal(t, drivers.KindGoodbye, reads(t, b).Kind)
}

// What counts as sent when the link is shut arrives.
func TestShutdownSendsWhatWasLeft(t *testing.T) {
	for range 50 {
		a, b := Pair(t, 1<<20)
		const senders = 8
		var wg sync.WaitGroup
		for i := range uint64(senders) {
			wg.Go(func() { assert.NoError(t, a.Send(context.Background(), note(i, 100))) })
		}
		wg.Wait()
		a.Shutdown()
		for range senders {
			reads(t, b)
		}
	}
	for _, late := range []time.Duration{0, 300 * time.Millisecond} { // until the sender with the lock gets a processor
		a, b := Pair(t, 1<<20)
		combines(t, a.(*link), note(1, 10))
		time.AfterFunc(late, a.(*link).unlock)
		a.Shutdown()
		require.Equal(t, uint64(1), reads(t, b).Tx)
	}
}

// Small frames, large ones and batches of many senders, some of which give up, are
// whole, once and in the order of each sender, if they count as sent.
func TestCombinedSends(t *testing.T) {
	a, b := Pair(t, 1<<24)
	const senders, each = 16, 150
	sealed := func(tx uint64, size int) drivers.Frame {
		p := binary.LittleEndian.AppendUint64(make([]byte, size, size+12), tx)
		for i := range size {
			p[i] = byte(tx) + byte(i)
		}
		return drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: binary.LittleEndian.AppendUint32(p, crc32.ChecksumIEEE(p))}
	}
	var mu sync.Mutex
	sent := make(map[uint64]bool)
	var wg sync.WaitGroup
	for s := range uint64(senders) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(s, 1))
			for i := uint64(0); i < each; {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if s%2 == 0 && random.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(300))*time.Microsecond)
				}
				var frames []drivers.Frame
				for range 1 + random.IntN(5) {
					size := random.IntN(300)
					if random.IntN(8) == 0 {
						size = random.IntN(200 << 10)
					}
					frames = append(frames, sealed(s<<32|i, size))
					i++
				}
				n := 0
				if len(frames) > 1 && s%3 == 0 {
					n, _ = a.SendBatch(ctx, frames)
				} else {
					for _, f := range frames {
						if a.Send(ctx, &f) != nil {
							break
						}
						n++
					}
				}
				cancel()
				mu.Lock()
				for _, f := range frames[:n] {
					sent[f.Tx] = true
				}
				mu.Unlock()
			}
		})
	}
	finished := make(chan error)
	go func() {
		wg.Wait()
		finished <- a.Send(context.Background(), &drivers.Frame{Kind: drivers.KindGoodbye})
	}()
	var last [senders]uint64
	seen := make(map[uint64]bool)
	for {
		f := reads(t, b)
		if f.Kind == drivers.KindGoodbye {
			break
		}
		p := f.Payload[:len(f.Payload)-4]
		require.Equal(t, binary.LittleEndian.Uint32(f.Payload[len(p):]), crc32.ChecksumIEEE(p))
		require.False(t, seen[f.Tx], "twice")
		seen[f.Tx] = true
		s := f.Tx >> 32
		require.GreaterOrEqual(t, f.Tx&(1<<32-1)+1, last[s]+1)
		last[s] = f.Tx&(1<<32-1) + 1
	}
	require.NoError(t, <-finished)
	require.Equal(t, sent, seen)
}

// A peer that does not read stops its senders in the end, and what is kept for it
// meanwhile is bounded, also if they give up and come again.
func TestWhatIsLeftIsBounded(t *testing.T) {
	a, b := Pair(t, 1<<24)
	l := a.(*link)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := 0
	for range 16 {
		wg.Go(func() {
			for range 10 {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
				for a.Send(ctx, note(1, 3000)) == nil {
					mu.Lock()
					sent++
					mu.Unlock()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	l.writer.combinedMu.Lock()
	n := cap(l.writer.combined)
	l.writer.combinedMu.Unlock()
	require.Less(t, n, 4*maxBatch)
	for range sent {
		require.Len(t, reads(t, b).Payload, 3000)
	}
	require.NoError(t, a.Send(t.Context(), note(2, 1)))
	require.Equal(t, uint64(2), reads(t, b).Tx)
	require.Less(t, cap(l.writer.tail), 8*maxBatch)
}

// A frame over the limit of the peer is refused wherever in a batch it is.
func TestBatchKnowsTheLimit(t *testing.T) {
	a, b := Pair(t, drivers.MinMaxMessage)
	frames := []drivers.Frame{*note(1, 10), *note(2, smallPayload), *note(3, 10)}
	n, err := a.SendBatch(t.Context(), frames)
	require.Equal(t, 1, n)
	var size *ipc.SizeError
	require.ErrorAs(t, err, &size)
	require.Equal(t, ipc.SizeError{Size: smallPayload + 8, Limit: drivers.MinMaxMessage}, *size)
	n, err = a.SendBatch(t.Context(), frames[1:])
	require.Zero(t, n)
	require.ErrorAs(t, err, &size)
	n, err = a.SendBatch(t.Context(), frames[2:])
	require.Equal(t, 1, n)
	require.NoError(t, err)
	require.Equal(t, uint64(1), reads(t, b).Tx)
	require.Equal(t, uint64(3), reads(t, b).Tx)
}

// Payloads that are held share the buffer that they came in.
func TestHoldCopiesNothing(t *testing.T) {
	a, b := Pair(t, 1<<20)
	const frames = 100
	for i := range uint64(frames) {
		f := note(i, 64)
		for j := range f.Payload {
			f.Payload[j] = byte(i)
		}
		require.NoError(t, a.Send(t.Context(), f))
	}
	buffers := make(map[*byte]bool)
	var held [][]byte
	for range frames {
		held = append(held, reads(t, b).Payload)
		buffers[&b.(*link).reader.buf[0]] = true
		defer b.Hold()()
	}
	for range frames { // what comes later does not touch them
		require.NoError(t, a.Send(t.Context(), note(0, 500)))
		reads(t, b)
	}
	for i, p := range held {
		for _, c := range p {
			require.Equal(t, byte(i), c)
		}
	}
	require.LessOrEqual(t, len(buffers), 3)
}
