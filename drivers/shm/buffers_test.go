//go:build linux

package shm

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/ring/sealed"
)

// linkPair returns the two ends of a link.
func linkPair(t *testing.T) (a, b *link) {
	t.Helper()
	percent := debug.SetGCPercent(-1) // what is forgotten stays
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	left, right := pair(t)
	own := make([]*ring.Segment, 2)
	for i := range own {
		var err error
		own[i], err = ring.Create(1 << 20)
		require.NoError(t, err)
	}
	open := func(s *ring.Segment) *ring.Segment {
		o, err := ring.Open(s.File())
		require.NoError(t, err)
		return o
	}
	theirs := []*ring.Segment{open(own[1]), open(own[0])}
	a, err := newLink(left, own[0], theirs[0], Park, drivers.DefaultMaxMessage, drivers.Hello{})
	require.NoError(t, err)
	b, err = newLink(right, own[1], theirs[1], Park, drivers.DefaultMaxMessage, drivers.Hello{})
	require.NoError(t, err)
	for _, l := range []*link{a, b} {
		l.watch()
		t.Cleanup(func() { require.NoError(t, l.Close()) })
	}
	return a, b
}

func testArena(t *testing.T, o ipc.ArenaOptions) *ipc.Arena {
	a := ipc.NewArena(o)
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return a.Stats().Buffers == 0 }, 30*time.Second, time.Millisecond, "all buffers are released")
		require.NoError(t, a.Close())
		require.Zero(t, a.Stats().Reserved)
		require.Zero(t, a.Stats().Forgotten)
	})
	return a
}

// attached is a frame with buffers, which are released by the function.
func attached(t testing.TB, n int, make func(i int) (ipc.Buffer, error)) (*drivers.Frame, func()) {
	f := &drivers.Frame{Kind: drivers.KindRequest, Tx: 2, Payload: []byte("x"), Attached: new(ipc.Attachments)}
	for i := range n {
		b, err := make(i)
		require.NoError(t, err)
		f.Attached.Add(uint64(i+1), b)
	}
	return f, f.Attached.Release
}

// receiveAll hands on the attachments of n frames.
func receiveAll(l *link, n int, take func(*ipc.Attachments)) error {
	var f drivers.Frame
	for i := 0; i < n; {
		ok, err := l.Next(&f)
		if err != nil {
			return err
		}
		if !ok {
			time.Sleep(50 * time.Microsecond)
			continue
		}
		take(f.Attached)
		f.Attached = nil
		i++
	}
	return nil
}

// More senders than there is room for do not wait for each other, one at a time or in batches.
func TestSendersOfManyBuffers(t *testing.T) {
	for _, batch := range []int{1, 20} {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			a, b := linkPair(t)
			arena := testArena(t, ipc.ArenaOptions{})
			const senders = 40
			received := make(chan error, 1)
			go func() { received <- receiveAll(b, senders*20, (*ipc.Attachments).Release) }()
			var all sync.WaitGroup
			for range senders {
				all.Go(func() {
					for range 20 / batch {
						frames := make([]drivers.Frame, batch)
						for i := range frames {
							f, release := attached(t, ipc.MaxBuffers, func(i int) (ipc.Buffer, error) { return arena.Alloc(context.Background(), 1+i) })
							defer release()
							frames[i] = *f
						}
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // nothing but what hangs takes so long
						n, err := a.SendBatch(ctx, frames)
						cancel()
						if n != batch || err != nil {
							t.Error(n, err)
							return
						}
					}
				})
			}
			all.Wait()
			require.NoError(t, <-received)
		})
	}
}

// A receiver that keeps all holds up its sender, whose context can end that, and nothing is lost.
func TestPlacesUsedUp(t *testing.T) {
	a, b := linkPair(t)
	arena := testArena(t, ipc.ArenaOptions{})
	var kept []*ipc.Attachments
	alloc := func(i int) (ipc.Buffer, error) {
		b, err := arena.Alloc(context.Background(), 8)
		if err == nil {
			b.Bytes()[0] = byte(i)
		}
		return b, err
	}
	for range maxPlaces / ipc.MaxBuffers {
		f, release := attached(t, ipc.MaxBuffers, alloc)
		require.NoError(t, a.Send(context.Background(), f))
		release()
		require.NoError(t, receiveAll(b, 1, func(a *ipc.Attachments) { kept = append(kept, a) }))
	}
	require.Eventually(t, func() bool { // a link that is in use says nothing
		h := arena.Stats().Holders
		return len(h) == 1 && h[0].Buffers == maxPlaces
	}, time.Minute, time.Millisecond)
	f, release := attached(t, 1, alloc)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	require.ErrorIs(t, a.Send(ctx, f), context.DeadlineExceeded)
	cancel()
	sent := make(chan error, 1)
	go func() { sent <- a.Send(context.Background(), f) }()
	plain := &drivers.Frame{Kind: drivers.KindNotify, Payload: []byte("passes")}
	require.NoError(t, a.Send(context.Background(), plain), "others are not held up")
	require.NoError(t, receiveAll(b, 1, func(*ipc.Attachments) {}))
	kept[3].Buffers[7].What.Release()
	require.NoError(t, <-sent)
	release()
	require.NoError(t, receiveAll(b, 1, func(a *ipc.Attachments) { kept = append(kept, a) }))
	for n, a := range kept {
		for i, b := range a.Buffers {
			if n != 3 || i != 7 {
				require.Equal(t, byte(i), b.What.Bytes()[0])
			}
		}
		a.Release()
	}
}

// Regions come and go: as many frozen buffers as one likes, of which few are there at a time. Too
// many at once are an error, and later ones work.
func TestRegionsComeAndGo(t *testing.T) {
	a, b := linkPair(t)
	arena := testArena(t, ipc.ArenaOptions{})
	plain, err := arena.Alloc(context.Background(), 100)
	require.NoError(t, err)
	defer plain.Release()
	frozen := func(int) (ipc.Buffer, error) { return plain.Freeze() }
	for range 3 * maxRegions {
		f, release := attached(t, 1, frozen)
		require.NoError(t, a.Send(context.Background(), f))
		release()
		require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
	}
	require.NoError(t, receiveAll(b, 0, nil))
	var kept []*ipc.Attachments
	for n := 0; ; n++ {
		f, release := attached(t, 1, frozen)
		err := a.Send(context.Background(), f)
		release()
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrExhausted)
			require.GreaterOrEqual(t, n, maxRegions-1)
			break
		}
		require.LessOrEqual(t, n, maxRegions)
		require.NoError(t, receiveAll(b, 1, func(a *ipc.Attachments) { kept = append(kept, a) }))
	}
	for _, a := range kept {
		require.True(t, a.Buffers[0].What.Frozen())
		a.Release()
	}
	f, release := attached(t, 100, frozen)
	require.NoError(t, a.Send(context.Background(), f))
	release()
	require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
}

// The sender does not know what the peer has released before it has the peer's acks. It waits for them.
func TestRegionsWaitForAcks(t *testing.T) {
	a, b := linkPair(t)
	pass, come := b.imports.sendAcks, make(chan struct{})
	b.imports.sendAcks = func(f *os.File) {
		go func() {
			<-come
			pass(f)
		}()
	}
	arena := testArena(t, ipc.ArenaOptions{})
	plain, err := arena.Alloc(context.Background(), 100)
	require.NoError(t, err)
	defer plain.Release()
	send := func(ctx context.Context) error {
		f, release := attached(t, 1, func(int) (ipc.Buffer, error) { return plain.Freeze() })
		defer release()
		return a.Send(ctx, f)
	}
	for range maxRegions - 1 { // one is that of plain
		require.NoError(t, send(context.Background()))
		require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
	}
	for err == nil { // until there are no more
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err = send(ctx)
		cancel()
		if err == nil {
			require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
		}
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	sent := make(chan error, 1)
	go func() { sent <- send(context.Background()) }()
	close(come)
	require.NoError(t, <-sent)
	require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
}

// heap is a backing that is not in shared memory.
type heap []byte

func (h heap) Bytes() []byte             { return h }
func (h heap) Region() (ipc.Region, int) { return nil, 0 }
func (h heap) Frozen() bool              { return true }
func (h heap) Free(bool)                 {}

// What is not in shared memory is copied, and waits for the peer to release earlier copies.
func TestCopiesWaitForRoom(t *testing.T) {
	a, b := linkPair(t)
	memory := make(heap, ipc.DefaultArenaLimit/4)
	private := func(int) (ipc.Buffer, error) { return ipc.NewBuffer(memory), nil }
	var kept []*ipc.Attachments
	for {
		f, release := attached(t, 1, private)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := a.Send(ctx, f)
		cancel()
		release()
		if err != nil && len(kept) > 0 {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		if err == nil {
			require.NoError(t, receiveAll(b, 1, func(a *ipc.Attachments) { kept = append(kept, a) }))
		}
	}
	f, release := attached(t, 1, private)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(context.Background(), f) }()
	for _, a := range kept {
		a.Release()
	}
	require.NoError(t, <-sent)
	release()
	require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
	large, release := attached(t, 1, func(int) (ipc.Buffer, error) { return ipc.NewBuffer(make(heap, ipc.DefaultArenaLimit+1)), nil })
	require.ErrorIs(t, a.Send(context.Background(), large), ipc.ErrExhausted, "it will never work")
	release()
}

// A buffer that others release while it is sent is an error, and the link goes on.
func TestReleasedWhileSent(t *testing.T) {
	a, b := linkPair(t)
	arena := testArena(t, ipc.ArenaOptions{})
	f, release := attached(t, 3, func(i int) (ipc.Buffer, error) { return arena.Alloc(context.Background(), 1+i) })
	f.Attached.Buffers[1].What.Release()
	require.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(a.Send(context.Background(), f)))
	release()
	f, release = attached(t, 3, func(i int) (ipc.Buffer, error) { return arena.Alloc(context.Background(), 1+i) })
	require.NoError(t, a.Send(context.Background(), f))
	release()
	require.NoError(t, receiveAll(b, 1, (*ipc.Attachments).Release))
}

// Acks of a hostile peer: too early, garbage, and backwards. No place is free twice.
func TestHostileAcks(t *testing.T) {
	arena := testArena(t, ipc.ArenaOptions{})
	acks, err := sealed.Create("tandem-acks", acksSize)
	require.NoError(t, err)
	gone := make(chan struct{})
	e := &exports{gone: gone}
	e.lock.Init()
	e.pass = func(context.Context, uint32, int, *os.File) error { return nil }
	e.forget = func(uint32) error { return nil }
	e.acks.Store(acks)
	words := sealed.Words(acks.Bytes())
	for round := range 200 {
		f, release := attached(t, 4, func(int) (ipc.Buffer, error) { return arena.Alloc(context.Background(), 64) })
		handles, err := e.attach(context.Background(), f.Attached.Buffers, nil)
		require.NoError(t, err)
		release()
		for i := range words[:8] {
			words[i].Store([]uint64{0, 1, ^uint64(0), uint64(round), uint64(round + 1), 1 << 63}[(round+i)%6])
		}
		if round%3 != 0 {
			e.Reclaim()
		}
		if round%2 == 0 {
			e.takeBack(handles)
		}
		seen := make(map[uint32]bool)
		_ = e.lock.Lock(context.Background(), nil) // for the sweeper runs
		all, places := append(append([]uint32(nil), e.free...), e.sent[e.first:]...), len(e.places)
		e.lock.Unlock()
		for _, place := range all {
			require.False(t, seen[place], "place %d is there twice", place)
			seen[place] = true
		}
		require.Len(t, seen, places)
	}
	close(gone)
	e.close()
	e.telling.wait()
}
