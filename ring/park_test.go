package ring

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// untilAsleep returns once somebody is about to sleep in s.
func untilAsleep(s *wait.Sleeper) {
	for !s.Asleep() {
		Pause()
		time.Sleep(time.Microsecond) // lets it run; nothing depends on how long
	}
}

func TestWakeIsNeverLost(t *testing.T) {
	watchdog(t)
	_, c := newPair(t, MinSize, 0)
	c.Wake() // before the sleep
	c.Sleep(nil)
	for range scaled(5000) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Sleep(nil)
		}()
		c.Wake() // before, during or after
		<-done
	}
	c.Wake()
	c.Sleep(func() bool { return false })
	c.Sleep(func() bool { return true })
}

func TestWaitEndsWithContext(t *testing.T) {
	watchdog(t)
	for _, wait := range []Wait{WaitAdaptive, WaitSpin, WaitPark} {
		_, c := newPair(t, MinSize, 0)
		c.SetWait(wait)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- c.Wait(ctx) }()
		if wait != WaitSpin {
			untilAsleep(&c.sleep)
		}
		cancel()
		err := <-done
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "tandem: ring: no data: context canceled")
		require.ErrorIs(t, c.Wait(ctx), context.Canceled)
	}
}

func TestWaitSpaceEndsWithContext(t *testing.T) {
	watchdog(t)
	for _, wait := range []Wait{WaitAdaptive, WaitSpin, WaitPark} {
		p, _ := newPair(t, MinSize, 0)
		p.SetWait(wait)
		require.NoError(t, p.Write(1, make([]byte, 2000)))
		require.NoError(t, p.Write(1, make([]byte, 1000)))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.WaitSpace(ctx, 2040) }()
		if wait != WaitSpin {
			untilAsleep(&p.sleep)
		}
		cancel()
		err := <-done
		require.EqualError(t, err, "tandem: ring: no space: context canceled")
		require.ErrorIs(t, p.Send(ctx, 1, make([]byte, 4000), nil), context.Canceled)
		require.NoError(t, p.Write(1, nil), "a smaller one fits")
	}
}

func TestInterrupt(t *testing.T) {
	watchdog(t)
	gone := errors.New("peer is gone")
	for _, wait := range []Wait{WaitAdaptive, WaitSpin, WaitPark} {
		a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
		p, ca, err := Join(a, b)
		require.NoError(t, err)
		pb, _, err := Join(b, a)
		require.NoError(t, err)
		p.SetWait(wait)
		ca.SetWait(wait)
		require.NoError(t, p.Write(1, make([]byte, 2000)))
		require.NoError(t, p.Write(1, make([]byte, 1000)))
		done := make(chan error, 2)
		go func() { done <- p.WaitSpace(context.Background(), 2040) }()
		go func() { done <- ca.Wait(context.Background()) }()
		if wait != WaitSpin {
			untilAsleep(&p.sleep)
			untilAsleep(&ca.sleep)
		}
		p.Interrupt(gone)
		ca.Interrupt(gone)
		require.Same(t, gone, <-done)
		require.Same(t, gone, <-done)
		p.Interrupt(errors.New("another"))
		require.Same(t, gone, p.WaitSpace(context.Background(), 2040))
		require.NoError(t, p.WaitSpace(context.Background(), 100), "what need not block goes on")
		require.Same(t, gone, ca.Wait(context.Background()))
		// What was published is still read.
		require.NoError(t, pb.Write(3, []byte("last words")))
		require.NoError(t, ca.Wait(context.Background()))
		r, ok, err := ca.Next()
		require.True(t, ok)
		require.NoError(t, err)
		require.Equal(t, "last words", string(r.Data))
		require.Same(t, gone, ca.Wait(context.Background()))
	}
}

// TestRungOnce: a producer rings once for an arming, and not at all for a
// consumer that polls.
func TestRungOnce(t *testing.T) {
	p, c := newPair(t, MinSize, 0)
	rings := func() uint32 { return *p.dataBell }
	require.NoError(t, p.Write(1, nil))
	require.Zero(t, rings())
	c.Arm()
	require.NoError(t, p.Append(1, nil))
	require.Zero(t, rings())
	for range 5 {
		require.NoError(t, p.Write(1, nil))
	}
	require.EqualValues(t, 1, rings())
	c.Arm()
	require.NoError(t, p.Write(1, nil))
	require.EqualValues(t, 2, rings())
	c.Disarm()
	require.NoError(t, p.Write(1, nil))
	require.EqualValues(t, 2, rings())
}

// TestLeaseReleasedWhileReaderIsParked: the last Release has to wake the producer
// by itself, as the reader will not come back.
func TestLeaseReleasedWhileReaderIsParked(t *testing.T) {
	ctx := watchdog(t)
	p, c := newPair(t, MinSize, 0)
	p.SetWait(WaitPark)
	var ls []Lease
	for range 3 {
		require.NoError(t, p.Write(1, make([]byte, 1000)))
		_, ok, err := c.Next()
		require.NoError(t, err)
		require.True(t, ok)
		ls = append(ls, c.Lease())
	}
	c.Arm()
	done := make(chan error, 1)
	go func() { done <- p.WaitSpace(ctx, 1800) }()
	untilAsleep(&p.sleep)
	ls[2].Release()
	ls[1].Release()
	select {
	case <-done:
		t.Fatal("the oldest record is still leased")
	default:
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(ls[0].Release)
	}
	wg.Wait()
	require.NoError(t, <-done)
	Lease{}.Release()
}

// TestHotPathsDoNotAllocate covers what runs once per record.
func TestHotPathsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	ctx := context.Background()
	p, c := newPair(t, MinSize, 0)
	payload := make([]byte, 100)
	for name, f := range map[string]func(){
		"write and next":   func() { p.Write(1, payload); c.Next() },
		"append":           func() { p.Append(1, payload); p.Publish(); c.Next() },
		"send and message": func() { p.Send(ctx, 1, payload[:9], payload); c.Message() },
		"claim":            func() { p.TryClaim(100); p.Commit(1, 50); p.Publish(); c.Next() },
		"lease":            func() { p.Write(1, payload); c.Next(); c.Lease().Release() },
		"empty":            func() { c.Next(); c.Ready(); c.Spin() },
		"arm":              func() { c.Arm(); p.Write(1, payload); c.Disarm(); c.Next() },
		"full":             func() { p.TryClaim(p.MaxRecord()); p.claimed = -1 },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, f), name)
	}
}

// TestPeerNotJoinedYet: what is sent to a peer that has not joined waits for it.
func TestPeerNotJoinedYet(t *testing.T) {
	const start = 1<<64 - 64
	a, b := newSegment(t, MinSize, start), newSegment(t, MinSize, 0)
	p, _, err := Join(a, b)
	require.NoError(t, err)
	n := 0
	for ; err == nil; n++ {
		err = p.Write(byte(n), make([]byte, 500))
	}
	require.ErrorIs(t, err, ErrFull)
	_, c, err := Join(b, a)
	require.NoError(t, err)
	require.ErrorIs(t, p.Write(1, make([]byte, 500)), ErrFull)
	for i := range n - 1 {
		r, ok, err := c.Next()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, byte(i), r.Tag)
	}
	_, ok, err := c.Next()
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, p.Write(1, make([]byte, 500)))
}

// TestArmPublishesPosition: a consumer that is asleep has given everything back,
// for nobody would ask it.
func TestArmPublishesPosition(t *testing.T) {
	p, c := newPair(t, MinSize, 0)
	require.NoError(t, p.Write(1, make([]byte, 500)))
	_, ok, err := c.Next()
	require.NoError(t, err)
	require.True(t, ok)
	_, ok, err = c.Next()
	require.NoError(t, err)
	require.False(t, ok)
	require.Zero(t, *c.position, "less than a quarter, and nobody asked")
	c.Arm()
	require.EqualValues(t, recordSize(500), *c.position)
	for range 2 {
		require.NoError(t, p.Write(1, make([]byte, 1780)))
	}
}

// TestLateRing: the producer has published, but not yet looked whether to ring,
// when the reader reads the record and arms. The bell then rings for what was
// read, and not a second time for that arming.
func TestLateRing(t *testing.T) {
	watchdog(t)
	p, c := newPair(t, MinSize, 0)
	c.Arm()
	p.ring(*c.waiting) // the second half of that Publish
	require.False(t, c.Ready())
	c.Sleep(c.Ready) // does not sleep on an arming that is used up
	c.Arm()
	rings := *p.dataBell
	require.NoError(t, p.Write(1, nil))
	require.Equal(t, rings+1, *p.dataBell)
	c.Sleep(nil)
	c.Disarm()
}
