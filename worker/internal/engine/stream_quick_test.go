package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

const drowsyTime = time.Millisecond

// drowsyLink takes long to send, as one does that has to wake its peer.
type drowsyLink struct{ *fakeLink }

func (l drowsyLink) Send(ctx context.Context, f *drivers.Frame) error {
	time.Sleep(drowsyTime)
	return l.fakeLink.Send(ctx, f)
}

// How long it takes to send says whether the peer sleeps, and does not count for what the handler
// takes, by which it is found to be quick.
func TestSendingDoesNotCountForTheHandlerOfAStream(t *testing.T) {
	reg := new(Registry)
	served := make(chan *Stream, 1)
	handleStream(reg, func(ctx context.Context, st *Stream) error {
		served <- st
		return st.Send(ctx, []byte("x"))
	})
	link := newFakeLink()
	s := newSessionOn(t, reg, drowsyLink{link})
	began := time.Now()
	link.push(openingOf(3, drivers.InitialStreamWindow))
	require.Equal(t, drivers.EndReturned, frameOf(link, drivers.KindEnd).Payload[0])
	settles(t, s)
	sending := (<-served).out.sending
	require.GreaterOrEqual(t, sending, 2*drowsyTime, "of the item and the end")
	require.Less(t, sending, time.Since(began))
}

// One that takes long by itself is not.
func TestStreamHandlerIsSlow(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(ctx context.Context, st *Stream) error {
		time.Sleep(10 * quickTime)
		return st.Send(ctx, []byte("x"))
	})
	link := newFakeLink()
	s := newSessionOn(t, reg, link)
	h := reg.find(raw.Info().ID)
	for i := range uint64(20) {
		link.push(openingOf(3+2*i, drivers.InitialStreamWindow))
		require.Equal(t, drivers.EndReturned, frameOf(link, drivers.KindEnd).Payload[0])
		require.False(t, h.quick())
	}
	settles(t, s)
}
