package engine

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// What SendPart says that it has sent arrives, each part as an item, and nothing else, however
// often its context ends meanwhile and however slow the reader is.
func TestPartsArriveAsTheyWereSent(t *testing.T) {
	for _, c := range []pairConfig{roomy, {room: 2, maxMessage: 1 << 20, window: 64 << 10, streamWindow: drivers.InitialStreamWindow}} {
		reg := new(Registry)
		type part struct {
			size int
			sum  uint64
		}
		sumOf := func(b []byte) (sum uint64) {
			for i, v := range b {
				sum += uint64(v) * uint64(i+1)
			}
			return sum
		}
		received := make(chan []part, 1)
		handleStream(reg, func(ctx context.Context, st *Stream) error {
			var all []part
			defer func() { received <- all }()
			for {
				item, err := st.Receive(ctx)
				if err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				all = append(all, part{len(item), sumOf(item)})
				if len(all)%7 == 0 {
					time.Sleep(50 * time.Microsecond) // so that the window is full now and then
				}
			}
		})
		host, _ := newPair(t, c, reg)
		st := openRaw(t, host, &ipc.StreamOpening{})
		var sent []part
		failed := 0
		for i := range 1000 {
			b := pattern(make([]byte, rand.IntN(1<<rand.IntN(18))), 0, i)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(100))*time.Microsecond)
			if i%3 == 0 {
				ctx = t.Context()
			}
			n, err := st.SendPart(ctx, b)
			cancel()
			if err != nil {
				require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
				require.Zero(t, n)
				failed++
				continue
			}
			require.True(t, n > 0 || len(b) == 0)
			require.True(t, n == len(b) || n >= drivers.InitialStreamWindow/2-16, "a part of %d bytes of %d", n, len(b))
			require.LessOrEqual(t, n, drivers.MaxPiece)
			sent = append(sent, part{n, sumOf(b[:n])})
			if i%10 == 0 { // what is gathered comes before
				small := pattern(make([]byte, 10), 1, i)
				require.NoError(t, st.Send(t.Context(), small))
				sent = append(sent, part{10, sumOf(small)})
			}
		}
		require.NoError(t, st.CloseSend(t.Context()))
		_, err := st.SendPart(t.Context(), []byte("x"))
		require.Equal(t, errSendClosed, err)
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		require.Equal(t, sent, <-received)
		t.Logf("%d parts were sent, and %d not in time", len(sent), failed)
	}
}

// A window that was made larger takes so many bytes at once, within what the side may have.
func TestWidenedWindow(t *testing.T) {
	reg := new(Registry)
	begun, release := make(chan struct{}), make(chan struct{})
	handleStream(reg, func(ctx context.Context, st *Stream) error {
		st.Widen(ctx, 256<<10)
		st.Widen(ctx, 100<<10) // which is less
		close(begun)
		<-release
		for {
			if _, err := st.Receive(ctx); err != nil {
				return nil
			}
		}
	})
	host, worker := newPair(t, roomy, reg)
	st := openRaw(t, host, &ipc.StreamOpening{})
	<-begun
	await(t, "the window has come", func() bool { return st.out.granted.Load() == 256<<10 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	total := 0
	for {
		n, err := st.SendPart(ctx, make([]byte, 256<<10-8-total))
		if total += n; err != nil || n == 0 {
			break
		}
	}
	require.Greater(t, total, 240<<10, "nobody has read")
	require.LessOrEqual(t, worker.streams.budget.spent.Load(), int64(256<<10))
	close(release)
	require.NoError(t, st.CloseSend(t.Context()))
	_, err := st.Receive(t.Context())
	require.Equal(t, io.EOF, err)
	settles(t, host)
	settles(t, worker)

	// It grows no further than the largest window.
	small, _ := newPair(t, pairConfig{room: 1000, maxMessage: 1 << 20, window: 64 << 10, streamWindow: 32 << 10}, new(Registry))
	st = openRaw(t, small, &ipc.StreamOpening{})
	st.Widen(t.Context(), 1<<30)
	require.LessOrEqual(t, st.in.limit, int64(32<<10))
	st.Close()
}
