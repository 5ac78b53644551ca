package drivertest

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var bufferCases = []testCase{
	{"Mirrored", testBuffersMirrored},
	{"AmongOthers", testBuffersAmongOthers},
	{"Held", testBuffersHeld},
	{"AtTheEnd", testBuffersAtTheEnd},
}

// sharesBuffers skips the test unless a link carries buffers.
func sharesBuffers(t *testing.T, p *peer) {
	t.Helper()
	if l, ok := p.link.(drivers.Sharer); ok {
		if buffers, _ := l.Shares(); buffers {
			return
		}
	}
	p.end()
	t.Skip("the link carries no buffers")
}

// bufferArena is an arena whose buffers say which they are.
type bufferArena struct {
	*ipc.Arena
	t *testing.T
}

func newBufferArena(t *testing.T) bufferArena {
	t.Helper()
	a := bufferArena{ipc.NewArena(ipc.ArenaOptions{Limit: 64 << 20}), t}
	t.Cleanup(func() { assert.NoError(t, a.Close()) })
	return a
}

// attached returns n new buffers as attachments of a frame, with numbers from first on. The
// first has size bytes, and each further one half as many.
func (a bufferArena) attached(first uint64, n, size int) *ipc.Attachments {
	a.t.Helper()
	var all ipc.Attachments
	for i := range n {
		b, err := a.Alloc(context.Background(), size>>i)
		require.NoError(a.t, err)
		copy(b.Bytes(), payload(first+uint64(i), b.Len()))
		all.Add(first+uint64(i), b)
	}
	return &all
}

// check checks that a frame brings what attached has made, and releases that.
func (a bufferArena) check(f *drivers.Frame, first uint64, n, size int) {
	a.t.Helper()
	if n == 0 {
		require.True(a.t, f.Attached.Empty())
		return
	}
	require.NotNil(a.t, f.Attached)
	require.Len(a.t, f.Attached.Buffers, n)
	for i, got := range f.Attached.Buffers {
		require.Equal(a.t, first+uint64(i), got.Number)
		require.Equal(a.t, size>>i, got.What.Len())
		require.NoError(a.t, checkPattern(first+uint64(i), got.What.Bytes()))
	}
	f.Attached.Release()
}

// free waits until no buffer is held, here or by the peer.
func (a bufferArena) free() {
	a.t.Helper()
	await(func() bool { return a.Stats().Buffers == 0 })
	a.Trim()
	require.Zero(a.t, a.Stats().Reserved)
}

// testBuffersMirrored: buffers of every size cross in both directions with frames of every size.
func testBuffersMirrored(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	sharesBuffers(t, p)
	a := newBufferArena(t)
	tx := uint64(0)
	for _, frame := range []int{0, 10, 20_000, 300_000} {
		for _, size := range []int{1, 64, 4 << 10, 100_000, 3 << 20} {
			for _, n := range []int{1, 3} {
				tx += 10
				all := a.attached(tx, n, size)
				p.send(drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: 7, Payload: payload(tx, frame), Attached: all})
				all.Release()
				f := p.receive()
				require.Equal(t, tx, f.Tx)
				require.NoError(t, checkPattern(tx, f.Payload))
				a.check(&f, tx, n, size)
			}
		}
	}
	a.free()
	p.echo(tx+1, 100)
	p.end()
}

// testBuffersAmongOthers: buffers stay with their frames, which others surround, in batches.
func testBuffersAmongOthers(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	sharesBuffers(t, p)
	a := newBufferArena(t)
	count := func(tx uint64) int { return max(0, int(tx%11)-7) }
	for begin := uint64(0); begin < 200; begin += 20 {
		var frames []drivers.Frame
		for tx := begin; tx < begin+20; tx++ {
			frames = append(frames, drivers.Frame{Kind: drivers.KindResponse, Tx: tx, Payload: payload(tx, int(tx)*37), Attached: a.attached(tx, count(tx), 1000)})
			if count(tx) == 0 {
				frames[len(frames)-1].Attached = nil
			}
		}
		n, err := p.link.SendBatch(context.Background(), frames)
		require.NoError(t, err)
		require.Len(t, frames, n)
		for i := range frames {
			frames[i].Attached.Release()
		}
		for tx := begin; tx < begin+20; tx++ {
			f := p.receive()
			require.Equal(t, tx, f.Tx)
			require.NoError(t, checkPattern(tx, f.Payload))
			a.check(&f, tx, count(tx), 1000)
		}
	}
	a.free()
	p.end()
}

// testBuffersHeld: what the receiver has not released is the receiver's, whatever its sender does, and
// is whole.
func testBuffersHeld(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	sharesBuffers(t, p)
	a := newBufferArena(t)
	var held []*ipc.Attachments
	for tx := uint64(10); tx < 500; tx += 10 {
		all := a.attached(tx, 2, 5000)
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Attached: all})
		all.Release()
		f := p.receive()
		require.Equal(t, tx, f.Tx)
		held = append(held, f.Attached)
		f.Attached = nil
	}
	runtime.GC()
	for i, all := range held {
		f := drivers.Frame{Attached: all}
		a.check(&f, uint64(10*(i+1)), 2, 5000)
	}
	a.free()
	p.end()
}

// testBuffersAtTheEnd: when the link ends the sender's buffers are free, whoever had them, and those of the
// peer are whole until they are released.
func testBuffersAtTheEnd(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	sharesBuffers(t, p)
	a := newBufferArena(t)
	var own []*ipc.Attachments
	for tx := uint64(1); tx < 20; tx++ {
		all := a.attached(tx*10, 3, 4000)
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Attached: all})
		own = append(own, all)
	}
	f := p.receive() // and the others stay unread
	require.NoError(t, p.link.Close())
	for i, all := range own {
		mine := drivers.Frame{Attached: all}
		a.check(&mine, uint64(10*(i+1)), 3, 4000)
	}
	f.Attached.Release()
	a.free()
	p.ended()
}
