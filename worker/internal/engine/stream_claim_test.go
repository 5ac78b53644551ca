package engine

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// claimLink is a fake link in which frames can be built in place.
type claimLink struct {
	*fakeLink
	frame   drivers.Frame
	aborted atomic.Int32
}

func (l *claimLink) Claim(ctx context.Context, f *drivers.Frame, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.frame = *f
	l.frame.Payload = make([]byte, n)
	return l.frame.Payload, nil
}

func (l *claimLink) Commit(n int) {
	l.frame.Payload = l.frame.Payload[:n]
	_ = l.Send(context.Background(), &l.frame)
}

func (l *claimLink) Abort() { l.aborted.Add(1) }

// openClaiming opens a stream of a link in which items can be built.
func openClaiming(t *testing.T) (*Stream, *claimLink) {
	link := &claimLink{fakeLink: newFakeLink()}
	s := New(Config{Link: link, Side: Host, Codec: ipc.Raw, MaxMessage: 8 << 20, Handlers: new(Registry)})
	s.Open()
	t.Cleanup(func() { s.Close(0) })
	st := openRaw(t, s, &ipc.StreamOpening{})
	link.push(drivers.Frame{Kind: drivers.KindWindow, Tx: st.tx, Payload: []byte{0, 0, 0, 4, 0, 0, 0, 0}})
	st.out.most = 64 << 20 // as if a large item had waited for that
	await(t, "the window has come", func() bool { return st.out.granted.Load() > 64<<20 })
	require.Equal(t, drivers.KindOpen, (<-link.sent).Kind)
	return st, link
}

// A claim that fails leaves nothing behind: what is claimed later stays in order.
func TestClaimThatFailsLeavesTheOrder(t *testing.T) {
	st, link := openClaiming(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := st.Claim(ended, 32<<10)
	require.ErrorIs(t, err, context.Canceled)
	st.out.last = monotonic() + forever // so that small items are gathered
	require.NoError(t, st.Send(t.Context(), []byte("first")))
	b, err := st.Claim(t.Context(), 6)
	require.NoError(t, err)
	copy(b, "second")
	require.NoError(t, st.Commit(t.Context(), 6))
	require.NoError(t, st.Flush(t.Context()))
	f := <-link.sent
	require.Zero(t, f.Method, "a list")
	first, rest, err := drivers.NextItem(f.Payload)
	require.NoError(t, err)
	require.Equal(t, "first", string(first))
	if len(rest) == 0 { // the flusher came between
		rest = (<-link.sent).Payload
	}
	second, _, err := drivers.NextItem(rest)
	require.NoError(t, err)
	require.Equal(t, "second", string(second))
}

// Nothing can be claimed for a stream that is over, whatever is gathered.
func TestClaimAfterTheEnd(t *testing.T) {
	st, _ := openClaiming(t)
	st.out.last = monotonic() + forever
	require.NoError(t, st.Send(t.Context(), []byte("gathered")))
	st.Close()
	for _, n := range []int{1, 32 << 10, 1 << 20} {
		require.ErrorIs(t, st.Send(t.Context(), make([]byte, n)), ipc.ErrClosed)
		_, err := st.Claim(t.Context(), n)
		require.ErrorIs(t, err, ipc.ErrClosed)
	}
}

// A stream does not keep the memory of a large item that was built.
func TestClaimedMemoryIsFreed(t *testing.T) {
	st, _ := openClaiming(t)
	for _, n := range []int{4 << 20, -1} {
		b, err := st.Claim(t.Context(), 4<<20)
		require.NoError(t, err)
		require.Len(t, b, 4<<20)
		require.NoError(t, st.Commit(t.Context(), n))
		require.LessOrEqual(t, cap(st.out.claim.own), maxKept)
	}
}

// A handler that panics, or ends its goroutine, while it builds an item holds up nobody: its
// stream ends with the error, after what was sent before, and the link goes on.
func TestHandlerPanicsWhileItBuildsAnItem(t *testing.T) {
	for _, n := range []int{1, drivers.MaxGathered, 2 * drivers.MaxPiece} { // gathered, in the link, in memory of its own
		for _, ends := range []func(){func() { panic("oops") }, runtime.Goexit} {
			reg := new(Registry)
			handleStream(reg, func(ctx context.Context, st *Stream) error {
				st.out.last, st.out.most = monotonic()+forever, drivers.DefaultStreamWindow
				if err := st.Send(ctx, []byte("before")); err != nil {
					return err
				}
				if _, err := st.Claim(ctx, n); err != nil {
					return err
				}
				ends()
				return nil
			})
			link := &claimLink{fakeLink: newFakeLink()}
			s := newSessionOn(t, reg, link)
			open := drivers.AppendOpening(nil, &drivers.Opening{Window: drivers.DefaultStreamWindow, Sent: true})
			link.push(drivers.Frame{Kind: drivers.KindOpen, Tx: 1<<8 + 1 - s.config.Side, Method: raw.Info().ID, Payload: open})
			require.Equal(t, listOf("before"), frameOf(link.fakeLink, drivers.KindItems).Payload)
			end := frameOf(link.fakeLink, drivers.KindEnd)
			require.Equal(t, drivers.EndFailed, end.Payload[0])
			require.Equal(t, ipc.CodeInternal, ipc.CodeOf(ipc.ParseError(end.Payload[1:])))
			require.Equal(t, n == drivers.MaxGathered, link.aborted.Load() == 1)
			settles(t, s)
		}
	}
}

// A handler that returns between a claim and its commit ends its stream, and holds up nobody
// else: the claim is dropped, and what was sent before it arrives.
func TestHandlerReturnsWithAClaim(t *testing.T) {
	for how, end := range map[string]func() error{
		"returns": func() error { return nil },
		"fails":   func() error { return errors.New("failed") },
	} {
		for _, size := range []int{8, 16 << 10, 500_000} {
			reg := new(Registry)
			handleStream(reg, func(ctx context.Context, st *Stream) error {
				if err := st.Send(ctx, []byte("before")); err != nil {
					return err
				}
				st.out.most = 1 << 20 // so that a claim of some size is the link's
				if _, err := st.Claim(ctx, size); err != nil {
					return err
				}
				return end()
			})
			fake := &claimLink{fakeLink: newFakeLink()}
			s := newSessionOn(t, reg, fake)
			f := openingOf(3, 1<<20)
			fake.push(f)
			require.Equal(t, "before", string(frameOf(fake.fakeLink, drivers.KindItems).Payload[drivers.ItemHeader:][:6]))
			f = frameOf(fake.fakeLink, drivers.KindEnd)
			require.Equal(t, how == "returns", f.Payload[0] == drivers.EndReturned, how)
			settles(t, s)
			require.Equal(t, size == 16<<10, fake.aborted.Load() == 1, "the link's memory was given back")
		}
	}
}
