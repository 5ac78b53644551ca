package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

// drowsyLink takes long to send, as one does that has to wake its peer.
type drowsyLink struct{ *fakeLink }

func (l drowsyLink) Send(ctx context.Context, f *drivers.Frame) error {
	time.Sleep(10 * quickTime)
	return l.fakeLink.Send(ctx, f)
}

// A handler of streams is quick though sending takes long, and then the background reader runs
// it: how long sending takes says whether the peer sleeps.
func TestStreamHandlerIsQuickThoughSendingIsNot(t *testing.T) {
	reg := new(Registry)
	handleStream(reg, func(ctx context.Context, st *Stream) error { return st.Send(ctx, []byte("x")) })
	link := newFakeLink()
	newSessionOn(t, reg, drowsyLink{link})
	h := reg.find(raw.Info().ID)
	for i := range uint64(1000) { // now and then another process has the processor
		link.push(openingOf(3+2*i, drivers.InitialStreamWindow))
		require.Equal(t, drivers.EndReturned, frameOf(link, drivers.KindEnd).Payload[0])
		if h.quick() {
			return
		}
	}
	t.Fatal("it is never quick")
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
