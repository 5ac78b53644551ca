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
}

func (l *endedLink) Next(f *drivers.Frame) (bool, error) {
	if n := int(l.read.Add(1)); n <= len(l.frames) {
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
