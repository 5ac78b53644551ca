package engine

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// held is how much memory the chunks take that a stream has not read.
func (st *Stream) held() (n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, c := range st.in.chunks[st.in.first:] {
		n += cap(c.b)
	}
	return n
}

// What a peer sends on a stream that nobody reads takes memory by what it counts for, whatever
// it has sent on another one before, and however it cuts its items.
func TestUnreadItemsTakeMemoryByTheirSize(t *testing.T) {
	runtime.GC()
	runtime.GC() // twice, so that nothing is left in the pools of other tests
	s, l := newTestSession(t, new(Registry))
	read, unread := openRaw(t, s, &ipc.StreamOpening{}), openRaw(t, s, &ipc.StreamOpening{})
	for _, st := range []*Stream{read, unread} {
		st.mu.Lock()
		st.in.granted += 1 << 30
		st.mu.Unlock()
	}
	cost := int64(0)
	forms := map[string][]drivers.Frame{
		"pieces":    {{Method: drivers.ItemPiece, Payload: make([]byte, ownedChunk)}, {Method: drivers.ItemWhole}},
		"and lists": {{Method: drivers.ItemPiece, Payload: make([]byte, ownedChunk)}, {Method: drivers.ItemWhole}, {Payload: make([]byte, 8)}},
		"owned":     {{Method: drivers.ItemWhole, Payload: make([]byte, ownedChunk), Owned: true}, {Payload: make([]byte, 8)}},
	}
	for name, frames := range forms {
		for range 100 {
			// The memory of what was read is kept for what comes next.
			l.push(drivers.Frame{Kind: drivers.KindItems, Tx: read.tx, Method: drivers.ItemWhole, Payload: make([]byte, drivers.MaxPiece)})
			_, err := read.Receive(t.Context())
			require.NoError(t, err)
			read.mu.Lock() // as the next Receive does
			read.in.current.free(s)
			read.in.current = nil
			read.mu.Unlock()
			for _, f := range frames {
				f.Kind, f.Tx = drivers.KindItems, unread.tx
				cost += drivers.ItemsCost(&f)
				l.push(f)
			}
		}
		await(t, "all has come", func() bool { unread.mu.Lock(); defer unread.mu.Unlock(); return unread.in.received == cost })
		require.Less(t, unread.held(), 4*int(cost), name)
	}
}
