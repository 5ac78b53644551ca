package worker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// endedLink is a link whose peer has sent some frames and gone.
type endedLink struct {
	drivers.Link
	read   atomic.Int32
	frames []drivers.Frame
	end    error
	began  chan struct{} // if not nil, all but the first frame come when it is closed
}

func (l *endedLink) Next(f *drivers.Frame) (bool, error) {
	n := int(l.read.Add(1))
	if n > 1 && l.began != nil {
		<-l.began
	}
	if n <= len(l.frames) {
		*f = l.frames[n-1]
		return true, nil
	}
	return false, l.end
}

func (l *endedLink) Send(context.Context, *drivers.Frame) error { return l.end }

func (l *endedLink) Peer() drivers.Hello { return drivers.Hello{} }

func (l *endedLink) Ready() bool { return true }

func (l *endedLink) Sleep(func() bool) {}

func (l *endedLink) Arm() {}

func (l *endedLink) Disarm() {}

func (l *endedLink) Wake() {}

func (l *endedLink) Spin() bool { return false }

func (l *endedLink) Shutdown() {}

func (l *endedLink) Close() error { return nil }

// A host that says goodbye and is gone before anybody has looked has ended in good order.
func TestGoodbyeCountsBeforeTheEnd(t *testing.T) {
	for _, end := range []error{ipc.ErrPeerGone, ipc.ErrDisconnected} {
		for _, goodbye := range []bool{true, false} {
			l := &endedLink{end: end}
			if goodbye {
				l.frames = []drivers.Frame{{Kind: drivers.KindGoodbye}}
			}
			host := engine.New(engine.Config{Link: l, Side: engine.Worker, Codec: ipc.CBOR, MaxMessage: 1 << 20, Handlers: new(engine.Registry), Log: slog.New(slog.DiscardHandler)})
			host.Open()
			<-host.Done()
			for range 100 { // a select takes any case that is ready
				require.Equal(t, !goodbye, lost(t.Context(), host))
			}
			host.Close(0)
		}
	}
}

// The contexts of handlers end when the host has said goodbye and is gone, also where a host
// that is only disconnected may come back for their answers.
func TestHandlersEndAfterGoodbye(t *testing.T) {
	for _, end := range []error{ipc.ErrPeerGone, ipc.ErrDisconnected} {
		s := NewServer(WithServerLogger(slog.New(slog.DiscardHandler)))
		m := ipc.NewMethod[int, int]("waits")
		began, ended := make(chan struct{}), make(chan struct{})
		Handle(s, m, func(ctx context.Context, _ int) (int, error) {
			close(began)
			<-ctx.Done()
			close(ended)
			return 0, nil
		})
		l := &endedLink{end: end, began: began, frames: []drivers.Frame{{Kind: drivers.KindRequest, Tx: 2, Method: m.Info().ID, Payload: []byte{0}}, {Kind: drivers.KindGoodbye}}}
		s.replay.Init(true, 0) // as with a driver that reconnects
		_, err := s.serveLink(t.Context(), l, ipc.CBOR, &drivers.StartupData{Timeouts: drivers.DefaultTimeouts()})
		require.NoError(t, err)
		<-ended
	}
}
