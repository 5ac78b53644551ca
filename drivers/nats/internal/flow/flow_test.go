package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// receive returns the next item as a string.
func receive(t *testing.T, f *Flow) string {
	t.Helper()
	item, err := f.Receive(t.Context())
	require.NoError(t, err)
	return string(item)
}

// ends asserts how a flow ends for who receives.
func ends(t *testing.T, f *Flow) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := f.Receive(ctx)
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "the flow goes on")
	return err
}

// Items go both ways, in order, and the acceptor ends the flow.
func TestItems(t *testing.T) {
	n, a, b := pair(t, Config{})
	require.NoError(t, a.Send(t.Context(), []byte("1")))
	require.NoError(t, a.Send(t.Context(), nil))
	require.NoError(t, a.CloseSend(t.Context()))
	require.Equal(t, "1", receive(t, b))
	require.Equal(t, "", receive(t, b))
	require.Equal(t, io.EOF, ends(t, b))
	require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
	require.NoError(t, b.Send(t.Context(), []byte("2")))
	require.Equal(t, "2", receive(t, a))
	b.End(t.Context(), nil, nil)
	require.Equal(t, io.EOF, ends(t, a))
	require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
	require.Equal(t, errSendClosed, b.Send(t.Context(), nil))
	for _, q := range n.queues {
		require.Zero(t, q.port.Len(), "nothing is left")
		require.Zero(t, q.port.budget.spent.Load())
	}
}

// What is gathered is sent without anybody saying so.
func TestGatheredItemsAreSent(t *testing.T) {
	_, a, b := pair(t, Config{})
	for i := range 1000 {
		require.NoError(t, a.Send(t.Context(), []byte{byte(i)}))
	}
	for i := range 1000 {
		require.Equal(t, string([]byte{byte(i)}), receive(t, b))
	}
}

// What was sent comes before the error of the end, and the note in its place.
func TestEnd(t *testing.T) {
	n := newNetwork(1 << 20)
	c := Config{Beat: patient}
	pa, pb := n.listen(t, "a", c), n.listen(t, "b", c)
	var notes []string
	a, err := pa.Open("b.", func(b []byte) error { notes = append(notes, string(b)); return nil })
	require.NoError(t, err)
	b, err := pb.Accept(a.Subject(), a.Granted(), patient, nil)
	require.NoError(t, err)
	require.NoError(t, b.Note(t.Context(), []byte("head")))
	for range 3 {
		require.NoError(t, b.Send(t.Context(), []byte("x")))
	}
	b.End(t.Context(), []byte("tail"), ipc.NewError(ipc.CodeNotFound, "what was asked for"))
	require.Equal(t, "x", receive(t, a))
	require.Equal(t, []string{"head"}, notes)
	require.Equal(t, "x", receive(t, a))
	require.Equal(t, "x", receive(t, a))
	err = ends(t, a)
	require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
	require.ErrorContains(t, err, "what was asked for")
	require.Equal(t, []string{"head", "tail"}, notes)
	require.Equal(t, err, ends(t, a))
	require.Equal(t, err, a.Send(t.Context(), nil))
	require.Equal(t, []string{"head", "tail"}, notes, "once")
}

// Each side may give the flow up. The other learns why, as far as an error crosses.
func TestAbort(t *testing.T) {
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded, fmt.Errorf("%w: closed", ipc.ErrClosed), io.ErrUnexpectedEOF} {
		for _, opener := range []bool{true, false} {
			_, a, b := pair(t, Config{})
			if !opener {
				a, b = b, a
			}
			require.NoError(t, a.Send(t.Context(), []byte("x")))
			require.Equal(t, "x", receive(t, b))
			a.Abort(cause)
			require.Equal(t, cause, ends(t, a))
			require.Equal(t, cause, a.Send(t.Context(), nil))
			err := ends(t, b)
			require.Equal(t, ipc.CodeOf(cause), ipc.CodeOf(err))
			require.Equal(t, errors.Is(cause, context.Canceled), errors.Is(err, context.Canceled))
			require.Equal(t, err, b.Send(t.Context(), nil))
			eventually(t, "both are forgotten", func() bool { return a.port.Len()+b.port.Len() == 0 })
		}
	}
}

// A flow that is given up before it is accepted tells whoever accepts it.
func TestAbortBeforeAccept(t *testing.T) {
	n := newNetwork(1 << 20)
	pa, pb := n.listen(t, "a", Config{Beat: patient}), n.listen(t, "b", Config{Beat: patient})
	a, err := pa.Open("b.", nil)
	require.NoError(t, err)
	a.Abort(context.Canceled)
	require.ErrorIs(t, a.Opened(t.Context()), context.Canceled)
	b, err := pb.Accept(a.Subject(), a.Granted(), patient, nil)
	require.NoError(t, err)
	require.ErrorIs(t, ends(t, b), context.Canceled)
	eventually(t, "both are forgotten", func() bool { return pa.Len()+pb.Len() == 0 })
}

// A flow that nobody accepts ends: at once if the other side says so, and after some beats if it
// says nothing.
func TestNotAccepted(t *testing.T) {
	n := newNetwork(1 << 20)
	slow, quick := n.listen(t, "a", Config{Beat: patient}), n.listen(t, "c", Config{Beat: time.Millisecond})
	a, err := slow.Open("b.", nil)
	require.NoError(t, err)
	require.NoError(t, Refuse(n, a.Subject(), ipc.NewError(ipc.CodeResourceExhausted, "full")))
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(a.Opened(t.Context())))

	a, err = slow.Open("b.", nil)
	require.NoError(t, err)
	slow.Deliver(a.name, nil, true)
	require.ErrorIs(t, a.Opened(t.Context()), nats.ErrNoResponders)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(a.Err()))

	a, err = quick.Open("b.", nil)
	require.NoError(t, err)
	require.ErrorIs(t, a.Opened(t.Context()), ipc.ErrPeerGone)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(a.Err()))
	eventually(t, "all are forgotten", func() bool { return slow.Len()+quick.Len() == 0 })
}

// A port has no more flows than it may, and none when it is closed.
func TestPortIsBounded(t *testing.T) {
	n := newNetwork(1 << 20)
	p := n.listen(t, "a", Config{Beat: patient, Flows: 2})
	one, err := p.Open("b.", nil)
	require.NoError(t, err)
	_, err = p.Accept("b.x", Initial, patient, nil)
	require.NoError(t, err)
	_, err = p.Open("b.", nil)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	p.Close(ipc.ErrClosed)
	require.ErrorIs(t, one.Err(), ipc.ErrClosed)
	_, err = p.Open("b.", nil)
	require.ErrorIs(t, err, ipc.ErrClosed)
}

// An item may be as large as was agreed, also if messages are small.
func TestLargeItems(t *testing.T) {
	for _, most := range []int64{1 << 10, 1 << 20} {
		n := newNetwork(most)
		c := Config{Beat: patient, MaxItem: 1 << 20}
		a, b := connect(t, n.listen(t, "a", c), n.listen(t, "b", c))
		sizes := []int{0, 1, int(most) - 22, int(most) - 21, int(most) - 20, Frame - 22, Frame - 21, Frame - 20, 300_000, 1 << 20}
		item := func(i, n int) []byte { return bytes.Repeat([]byte{byte(i)}, n) }
		go func() {
			for i, n := range sizes {
				if n <= 1<<20 && a.Send(context.Background(), item(i, n)) != nil {
					return
				}
			}
			_ = a.CloseSend(context.Background())
		}()
		for i, n := range sizes {
			got, err := b.Receive(t.Context())
			require.NoError(t, err)
			require.True(t, bytes.Equal(item(i, n), got), n)
		}
		require.Equal(t, io.EOF, ends(t, b))
		var tooLarge *ipc.SizeError
		require.ErrorAs(t, b.Send(t.Context(), make([]byte, 1<<20+1)), &tooLarge)
		require.NoError(t, b.Send(t.Context(), []byte("goes on")))
		require.Equal(t, "goes on", receive(t, a))
	}
}

// A sender waits for a reader, with its context, and what waits in memory is bounded by the window.
func TestWindow(t *testing.T) {
	for _, size := range []int{0, 1, 1000, Frame, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			_, a, b := pair(t, Config{})
			item := make([]byte, size)
			sent := 0
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				err := a.Send(ctx, item)
				cancel()
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					break
				}
				sent++
			}
			b.mu.Lock()
			waits := 0
			for _, a := range b.in.arrivals {
				waits += cap(a.body) + 64
			}
			b.mu.Unlock()
			require.LessOrEqual(t, waits, Initial+Initial/2)
			if size > Initial { // the first one was sent in part, which has ended the flow
				require.Zero(t, sent)
				require.ErrorIs(t, a.Err(), context.DeadlineExceeded)
				require.ErrorIs(t, ends(t, b), context.DeadlineExceeded)
				return
			}
			for range sent {
				got, err := b.Receive(t.Context())
				require.NoError(t, err)
				require.Len(t, got, size)
			}
			require.NoError(t, a.Send(t.Context(), []byte("goes on")))
			require.Equal(t, "goes on", receive(t, b))
		})
	}
}

// A window grows while it is read, and no further than it may, alone and together.
func TestWindowGrows(t *testing.T) {
	n := newNetwork(1 << 20)
	c := Config{Beat: patient, Window: 256 << 10, Budget: 4 << 20}
	pa, pb := n.listen(t, "a", c), n.listen(t, "b", c)
	var all []*Flow
	for range 40 {
		a, b := connect(t, pa, pb)
		for range 100 {
			require.NoError(t, a.Send(t.Context(), make([]byte, Frame/2)))
			_, err := b.Receive(t.Context())
			require.NoError(t, err)
		}
		all = append(all, b)
	}
	require.EqualValues(t, 256<<10, all[0].in.limit)
	require.EqualValues(t, Initial, all[39].in.limit, "the budget is spent")
	require.LessOrEqual(t, pb.budget.spent.Load(), c.Budget)
	for _, b := range all {
		b.Abort(ipc.ErrClosed)
	}
	require.Zero(t, pb.budget.spent.Load())
}

// A peer that takes no more lets the sender go, and can still send itself.
func TestTakeNoMore(t *testing.T) {
	_, a, b := pair(t, Config{})
	sent := make(chan error)
	go func() {
		for {
			if err := a.Send(context.Background(), make([]byte, 1000)); err != nil {
				sent <- err
				return
			}
		}
	}()
	eventually(t, "the window is full", func() bool { return a.out.waiting.Load() })
	b.TakeNoMore()
	require.Equal(t, io.EOF, <-sent)
	require.NoError(t, a.CloseSend(t.Context()))
	require.NoError(t, b.Send(t.Context(), []byte("x")))
	require.Equal(t, "x", receive(t, a))
	b.End(t.Context(), nil, nil)
	require.Equal(t, io.EOF, ends(t, a))
}

// What a sender gets that has closed its sending does not depend on when the peer ends the flow.
func TestSendAfterCloseSend(t *testing.T) {
	for _, failure := range []error{nil, ipc.NewError(ipc.CodeAborted, "enough")} {
		for _, late := range []bool{false, true} {
			_, a, b := pair(t, Config{})
			end := func() {
				b.TakeNoMore()
				b.End(t.Context(), nil, failure)
				eventually(t, "the end has come", func() bool { return a.Err() != nil })
			}
			require.NoError(t, a.Send(t.Context(), []byte("x")))
			require.NoError(t, a.Send(t.Context(), []byte("gathered")))
			if !late {
				end()
			}
			require.NoError(t, a.CloseSend(t.Context()))
			if late {
				require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
				end()
			}
			require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
			_, err := a.SendPart(t.Context(), []byte("x"))
			require.Equal(t, errSendClosed, err)
			_, err = a.Claim(t.Context(), 1)
			require.Equal(t, errSendClosed, err)
			require.NoError(t, a.CloseSend(t.Context()))
		}
	}
}

// The same while another goroutine holds the flow's lock, as the flusher does for a moment, and those who send wait.
func TestSendAfterCloseSendWithoutTheLock(t *testing.T) {
	_, a, b := pair(t, Config{})
	require.True(t, a.tryLock())
	b.End(t.Context(), nil, nil)
	eventually(t, "the end has come", func() bool { return a.Err() != nil })
	require.Equal(t, io.EOF, a.Send(t.Context(), nil), "it was not closed yet")
	require.NoError(t, a.CloseSend(t.Context()))
	require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
	a.unlock()
	require.Equal(t, errSendClosed, a.Send(t.Context(), nil))
}

// A peer that could not be told that this side takes no more is told with the next beat.
func TestTakeNoMoreIsToldLater(t *testing.T) {
	n, a, b := pair(t, Config{})
	n.fail(nats.ErrReconnectBufExceeded)
	b.TakeNoMore()
	b.tick()
	n.fail(nil)
	b.tick()
	eventually(t, "the peer is told", func() bool { return a.out.refused.Load() })
	require.Equal(t, io.EOF, a.Send(t.Context(), nil))
	b.tick()
	require.NoError(t, a.Err())
}

// A part is no larger than an item may be.
func TestSendPartOfSmallItems(t *testing.T) {
	_, a, b := pair(t, Config{MaxItem: 1000})
	n, err := a.SendPart(t.Context(), make([]byte, 2500))
	require.NoError(t, err)
	require.Equal(t, 1000, n)
	require.Len(t, receive(t, b), 1000)
}

// A port that is closed just as a flow is opened leaves one that can be refused.
func TestOverBeforeItBeats(t *testing.T) {
	n := newNetwork(1 << 20)
	p := n.listen(t, "a", Config{Beat: patient})
	f := p.newFlow(patient, nil)
	require.NoError(t, p.add(f))
	f.Abort(ipc.ErrClosed)
	f.startBeat()
	p.Deliver(f.name, nil, true)
	require.Zero(t, p.Len())
}

// What a write to the network fails with says that the connection was lost.
func TestFailedWrite(t *testing.T) {
	for _, err := range []error{&net.OpError{Op: "write", Err: syscall.EPIPE}, io.EOF, nats.ErrStaleConnection, nats.ErrConnectionClosed} {
		require.ErrorIs(t, failed(err), ipc.ErrDisconnected, "%v", err)
		require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(failed(err)))
	}
	require.NotErrorIs(t, failed(nats.ErrMaxPayload), ipc.ErrDisconnected)
}

// While the connection is away and nats.go keeps nothing more, a sender waits, and beats are left out.
func TestConnectionAway(t *testing.T) {
	n, a, b := pair(t, Config{Beat: time.Second})
	n.fail(nats.ErrReconnectBufExceeded)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(context.Background(), []byte("late")) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := b.Receive(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	n.fail(nil)
	require.Equal(t, "late", receive(t, b))
	require.NoError(t, <-sent)

	n.fail(nats.ErrConnectionClosed)
	require.ErrorIs(t, a.Send(t.Context(), make([]byte, Frame)), ipc.ErrDisconnected)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(a.Err()))
}

// A side that has heard nothing for some beats gives up, also in the middle of waiting for room.
func TestBeats(t *testing.T) {
	n, a, b := pair(t, Config{})
	unheard := func(f *Flow) int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.missed
	}
	for range 10 * Misses { // two that say nothing live on
		a.tick()
		b.tick()
		eventually(t, "they hear each other", func() bool { return unheard(a)+unheard(b) <= 1 })
	}
	require.NoError(t, a.Err())
	require.NoError(t, b.Err())
	n.hold("a", true) // a hears nothing
	sent := make(chan error, 1)
	go func() {
		for {
			if err := a.Send(context.Background(), make([]byte, 1000)); err != nil {
				sent <- err
				return
			}
		}
	}()
	eventually(t, "the window is full", func() bool { return a.out.waiting.Load() })
	for range Misses + 1 {
		a.tick()
	}
	err := ends(t, a)
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
	require.Equal(t, err, <-sent)
	eventually(t, "b is told", func() bool { return b.Err() != nil })
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(b.Err()))
}

// A sender that finds the flow to be over in the middle of an item takes nothing from who receives.
func TestEndWithinAnItem(t *testing.T) {
	_, a, b := pair(t, Config{})
	sent := make(chan error)
	go func() { sent <- a.Send(context.Background(), make([]byte, 2*Initial)) }()
	eventually(t, "the window is full", func() bool { return a.out.waiting.Load() })
	require.NoError(t, b.Send(t.Context(), []byte("x")))
	b.End(t.Context(), nil, nil)
	require.Equal(t, io.EOF, <-sent)
	require.Equal(t, "x", receive(t, a))
	require.Equal(t, io.EOF, ends(t, a))
}

// Nothing is sent before the peer is known, whoever says what in the meantime.
func TestSendBeforeAccept(t *testing.T) {
	for range 200 { // for the race of a sender that wakes up with a frame that ends the flow
		n := newNetwork(1 << 20)
		p := n.listen(t, "a", Config{Beat: patient})
		f, err := p.Open("b.", nil)
		require.NoError(t, err)
		f.Widen(t.Context(), 2*Initial)
		sent := make(chan error, 1)
		go func() { sent <- f.Send(context.Background(), []byte("x")) }()
		eventually(t, "it waits", func() bool { return f.out.waiting.Load() })
		p.Deliver(f.name, raw(kindItems, 1, 10*Initial, items("x")), false)
		require.ErrorIs(t, <-sent, ipc.ErrProtocol)
	}
	n := newNetwork(1 << 20)
	pa, pb := n.listen(t, "a", Config{Beat: patient}), n.listen(t, "b", Config{Beat: patient})
	a, err := pa.Open("b.", nil)
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- a.CloseSend(context.Background()) }()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.CloseSend(canceled), context.Canceled)
	b, err := pb.Accept(a.Subject(), a.Granted(), patient, nil)
	require.NoError(t, err)
	require.NoError(t, <-closed)
	require.Equal(t, io.EOF, ends(t, b))
}

// A Receive that is interrupted in the middle of an item loses nothing of it.
func TestInterruptedItem(t *testing.T) {
	_, a, b := pair(t, Config{})
	item := bytes.Repeat([]byte("0123456"), Initial)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(context.Background(), item) }()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var got []byte
	err := context.Canceled
	for begun := time.Now(); err == context.Canceled && time.Since(begun) < time.Minute; {
		got, err = b.Receive(gone)
	}
	require.NoError(t, err)
	require.True(t, bytes.Equal(item, got))
	require.NoError(t, <-sent)
	require.NoError(t, a.Send(t.Context(), []byte("next")))
	require.Equal(t, "next", receive(t, b))
}

// A flow that is over already when its opener looks was opened all the same, and what has come can be read.
func TestOpenedAndOver(t *testing.T) {
	n := newNetwork(1 << 20)
	pa, pb := n.listen(t, "a", Config{Beat: patient}), n.listen(t, "b", Config{Beat: patient})
	for range 50 {
		a, err := pa.Open("b.", nil)
		require.NoError(t, err)
		b, err := pb.Accept(a.Subject(), a.Granted(), patient, nil)
		require.NoError(t, err)
		require.NoError(t, b.Send(t.Context(), []byte("x")))
		b.End(t.Context(), nil, nil)
		<-a.Done()
		require.NoError(t, a.Opened(t.Context()))
		require.NoError(t, a.CloseSend(t.Context()))
		require.Equal(t, "x", receive(t, a))
		require.Equal(t, io.EOF, ends(t, a))
	}
}
