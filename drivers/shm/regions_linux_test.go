package shm

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// sendBuffer sends b in a frame of its own.
func sendBuffer(t *testing.T, l *link, b ipc.Buffer) {
	t.Helper()
	a, err := ipc.Attach(b)
	require.NoError(t, err)
	require.NoError(t, l.Send(t.Context(), &drivers.Frame{Kind: drivers.KindResponse, Tx: 2, Attached: a}))
}

// frozenWith returns a frozen buffer that holds a number.
func frozenWith(t *testing.T, arena *ipc.Arena, number uint64) ipc.Buffer {
	t.Helper()
	b, err := arena.Alloc(t.Context(), 8)
	require.NoError(t, err)
	defer b.Release()
	binary.LittleEndian.PutUint64(b.Bytes(), number)
	f, err := b.Freeze()
	require.NoError(t, err)
	return f
}

// received returns the only buffer of the next frame.
func received(t *testing.T, l *link) ipc.Buffer {
	t.Helper()
	f, ok, err := look(l)
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, f.Attached.Buffers, 1)
	return f.Attached.Buffers[0].What
}

// regionsOf returns how many regions l has passed that are still there.
func regionsOf(l *link) int {
	_ = l.exports.lock.Lock(context.Background(), nil)
	defer l.exports.lock.Unlock()
	return len(l.exports.regions)
}

// A frame overtakes the records of the control socket that came before it: a buffer is looked up in
// its own region all the same, not in an earlier one that has gone.
func TestBufferIsOfItsOwnRegion(t *testing.T) {
	from, to := linked(t)
	arena := ipc.NewArena(ipc.ArenaOptions{})
	defer arena.Close()
	for i := range uint64(200) {
		b := frozenWith(t, arena, i)
		sendBuffer(t, from, b)
		b.Release()
		got := received(t, to)
		require.Equal(t, i, binary.LittleEndian.Uint64(got.Bytes()))
		got.Release()
		if i == 0 { // the acks
			from.imports.catchUp(func() bool { return from.exports.acks.Load() != nil })
		}
		require.Eventually(t, func() bool {
			from.imports.catchUp(nil)
			return held(from) == 0 && regionsOf(from) == 0
		}, 30*time.Second, 10*time.Microsecond)
	}
}

// Regions of buffers that the peer has released make room for others, also while the peer keeps an
// earlier buffer.
func TestRegionsBehindOneThatIsKept(t *testing.T) {
	from, to := linked(t)
	from.watch()
	to.watch()
	arena := ipc.NewArena(ipc.ArenaOptions{})
	defer arena.Close()
	kept := frozenWith(t, arena, 1)
	defer kept.Release()
	sendBuffer(t, from, kept)
	held := received(t, to)
	defer held.Release()
	require.Eventually(t, func() bool { return from.exports.acks.Load() != nil }, 30*time.Second, time.Millisecond)
	// So that the acks are looked at in time by senders alone.
	_ = from.exports.lock.Lock(t.Context(), nil)
	from.exports.sweeper.Stop()
	from.exports.sweeper = time.AfterFunc(time.Hour, func() {}) // or one that runs would start it again
	from.exports.lock.Unlock()
	for i := range uint64(2 * maxRegions) {
		b := frozenWith(t, arena, i)
		sendBuffer(t, from, b)
		b.Release()
		got := received(t, to)
		require.Equal(t, i, binary.LittleEndian.Uint64(got.Bytes()))
		got.Release()
	}
}

// An arena counts its own buffers as sent, not those that the same peer has from elsewhere.
func TestSentOfArena(t *testing.T) {
	from, to := linked(t)
	from.watch()
	to.watch()
	one, other := ipc.NewArena(ipc.ArenaOptions{}), ipc.NewArena(ipc.ArenaOptions{})
	defer one.Close()
	defer other.Close()
	var held []ipc.Buffer
	for i, a := range []*ipc.Arena{one, other, other} {
		b, err := a.Alloc(t.Context(), 10)
		require.NoError(t, err)
		sendBuffer(t, from, b)
		b.Release()
		held = append(held, received(t, to))
		f := frozenWith(t, a, uint64(i))
		sendBuffer(t, from, f)
		f.Release()
		held = append(held, received(t, to))
	}
	require.Eventually(t, func() bool { // a link that is in use says nothing
		here, there := one.Stats().Holders, other.Stats().Holders
		return len(here) == 1 && len(there) == 1 && here[0].Buffers == 1 && there[0].Buffers == 2
	}, time.Minute, time.Millisecond)
	for _, b := range held {
		b.Release()
	}
	require.Eventually(t, func() bool {
		here, there := one.Stats(), other.Stats()
		return len(here.Holders)+len(there.Holders)+here.Buffers+there.Buffers == 0
	}, time.Minute, time.Millisecond)
}
