package engine

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// A stream that is given up while it is opened is ended at the peer after it was opened.
func TestStreamIsGivenUpWhileItOpens(t *testing.T) {
	l := &failingLink{fakeLink: newFakeLink(), kind: drivers.KindOpen}
	s := newSessionOn(t, new(Registry), l)
	l.first = func(context.Context) error {
		s.FailCalls(ipc.ErrClosed)
		return nil
	}
	_, err := s.OpenStream(t.Context(), rawCall(), &ipc.StreamOpening{})
	require.ErrorIs(t, err, ipc.ErrClosed)
	first, second := <-l.sent, <-l.sent
	require.Equal(t, []drivers.Kind{drivers.KindOpen, drivers.KindEnd}, []drivers.Kind{first.Kind, second.Kind})
	l.push(endOfStream(first.Tx, drivers.EndReturned))
	settles(t, s)
}

// The end of a stream that was given up arrives, however long there is no room for it.
func TestGivenUpStreamsReachTheirHandlers(t *testing.T) {
	l := &failingLink{fakeLink: newFakeLink(), kind: drivers.KindEnd}
	l.first = func(context.Context) error { return nil }
	s := newSessionOn(t, new(Registry), l)
	st := openRaw(t, s, &ipc.StreamOpening{})
	st.Close()
	require.Equal(t, st.tx, frameOf(l.fakeLink, drivers.KindEnd).Tx)
	require.False(t, l.bounded.Load(), "it is dropped if there is no room in time")
}

// A stream that is given up while its handler waits for its turn ends at once. The handler does not
// run, whether or not its turn has come meanwhile.
func TestGivenUpStreamsHaveNoTurn(t *testing.T) {
	reg := new(Registry)
	var runs atomic.Int64
	handleStream(reg, func(_ context.Context, st *Stream) error {
		runs.Add(1)
		<-st.ctx.Done()
		return nil
	}, func(h *Handler) { h.Concurrent(1) })
	link := newFakeLink()
	newSessionOn(t, reg, link)
	const inTurn = 3
	link.push(openingOf(inTurn, drivers.InitialStreamWindow))
	await(t, "the first one runs", func() bool { return runs.Load() == 1 })
	for i := range uint64(200) {
		waiting := inTurn + 4*i + 2
		link.push(openingOf(waiting, drivers.InitialStreamWindow))
		link.push(endOfStream(waiting, drivers.EndGivenUp))
		end := frameOf(link, drivers.KindEnd)
		require.Equal(t, waiting, end.Tx)
		require.Equal(t, drivers.EndFailed, end.Payload[0])
		require.EqualValues(t, 1, runs.Load())
	}
	// Now both may happen first.
	const last = inTurn + 4*1000
	link.push(openingOf(last, drivers.InitialStreamWindow))
	link.push(endOfStream(last, drivers.EndGivenUp))
	link.push(endOfStream(inTurn, drivers.EndGivenUp))
	frameOf(link, drivers.KindEnd)
	frameOf(link, drivers.KindEnd)
	require.EqualValues(t, 1, runs.Load())
}
