package ring

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// ends returns two connected sockets.
func ends(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, f, err := Socketpair()
	require.NoError(t, err)
	b, err = fdpass.Conn(f)
	require.NoError(t, f.Close())
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// linked returns both ends of a link.
func linked(t *testing.T, sizeA, sizeB int) (a, b *Link) {
	t.Helper()
	connA, connB := ends(t)
	made := make(chan *Link, 1)
	go func() {
		l, err := Exchange(context.Background(), connB, sizeB)
		if err != nil {
			t.Errorf("the other end: %v", err)
		}
		made <- l
	}()
	a, err := Exchange(context.Background(), connA, sizeA)
	require.NoError(t, err)
	b = <-made
	require.NotNil(t, b)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// noLeaks fails if what t has done by its end leaves something.
func noLeaks(t *testing.T) {
	t.Helper()
	base := leaktest.NewBaseline()
	t.Cleanup(func() { require.Empty(t, base.Leaks()) })
}

func TestExchange(t *testing.T) {
	noLeaks(t)
	ctx := watchdog(t)
	a, b := linked(t, MinSize, 1<<20)
	for i := range 1000 {
		want := fill(i, uint64(i))
		for _, way := range []struct{ from, to *Link }{{a, b}, {b, a}} {
			require.NoError(t, way.from.Producer.Send(ctx, byte(i), want, nil))
			m, ok, err := way.to.Consumer.Message()
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, byte(i), m.Tag)
			require.Equal(t, want, append([]byte{}, m.Data...))
		}
	}
	require.NoError(t, a.Err())
	select {
	case <-a.Done():
		t.Fatal("done while both ends are open")
	default:
	}
	require.Nil(t, a.ours.File(), "the descriptor is not needed any more")
}

// What was published is read to the end after the peer is gone, and only then comes the error. A
// sender that is blocked, and later ones that would block, get it, too.
func TestPeerCloses(t *testing.T) {
	noLeaks(t)
	ctx := watchdog(t)
	a, b := linked(t, 64<<10, MinSize)
	for i := range uint64(100) {
		require.NoError(t, a.Producer.Send(ctx, 1, binary.NativeEndian.AppendUint64(nil, i), nil))
	}
	blocked := make(chan error, 1)
	b.Go(func() {
		for {
			if err := b.Producer.Send(ctx, 1, make([]byte, 100), nil); err != nil {
				blocked <- err
				return
			}
		}
	})
	untilAsleep(&b.Producer.sleep)
	require.NoError(t, a.Close())
	require.ErrorIs(t, <-blocked, ErrPeerGone)
	<-b.Done()
	require.ErrorIs(t, b.Err(), ErrPeerGone)
	for i := range uint64(100) {
		require.NoError(t, b.Consumer.Wait(ctx))
		r, ok, err := b.Consumer.Next()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, i, binary.NativeEndian.Uint64(r.Data))
	}
	require.ErrorIs(t, b.Consumer.Wait(ctx), ErrPeerGone)

	require.ErrorIs(t, a.Err(), ErrClosed)
	require.NotErrorIs(t, a.Err(), ErrPeerGone)
	require.NoError(t, b.Close())
	require.ErrorIs(t, b.Err(), ErrPeerGone, "the first reason counts")
}

// Close ends whoever waits, and the memory goes when they are through.
func TestCloseWaitsForUsers(t *testing.T) {
	noLeaks(t)
	ctx := watchdog(t)
	for range scaled(200) {
		a, b := linked(t, MinSize, MinSize)
		var errs [2]error
		var left sync.WaitGroup
		left.Add(2)
		require.True(t, a.Go(func() {
			defer left.Done()
			errs[0] = a.Consumer.Wait(ctx)
			_, _, err := a.Consumer.Next() // still mapped
			require.NoError(t, err)
		}))
		require.True(t, a.Go(func() {
			defer left.Done()
			for errs[1] == nil {
				errs[1] = a.Producer.Send(ctx, 0, make([]byte, 100), nil)
			}
			require.Equal(t, "tndring1", string(a.ours.Bytes()[:8])) // still mapped
		}))
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() {
				if err := a.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if a.ours.Bytes() != nil || a.theirs.Bytes() != nil {
					t.Error("Close has returned before the memory is gone")
				}
			})
		}
		closers.Wait()
		left.Wait()
		require.ErrorIs(t, errs[0], ErrClosed)
		require.ErrorIs(t, errs[1], ErrClosed)
		require.False(t, a.Go(func() { t.Error("runs after Close") }))
		require.NoError(t, b.Close())
	}
}

func TestExchangeRefusesOurOwnMistakes(t *testing.T) {
	noLeaks(t)
	ours, theirs := ends(t)
	_, err := Exchange(context.Background(), ours, 5000)
	require.ErrorIs(t, err, ErrLayout)
	_, err = Exchange(context.Background(), theirs, MinSize)
	require.ErrorIs(t, err, ErrPeerGone)

	datagram, f, err := fdpass.Socketpair(unix.SOCK_DGRAM)
	require.NoError(t, err)
	defer f.Close()
	_, err = Exchange(context.Background(), datagram, MinSize)
	require.ErrorContains(t, err, "datagram socket")

	packets, f, err := fdpass.Socketpair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	other, err := fdpass.Conn(f)
	f.Close()
	require.NoError(t, err)
	made := make(chan error, 1)
	go func() {
		l, err := Exchange(context.Background(), other, MinSize)
		if err == nil {
			err = l.Close()
		}
		made <- err
	}()
	l, err := Exchange(context.Background(), packets, MinSize)
	require.NoError(t, err)
	require.NoError(t, <-made)
	<-l.Done()
	require.ErrorIs(t, l.Err(), ErrPeerGone)
	require.NoError(t, l.Close())
}
