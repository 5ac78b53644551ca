package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// countingLink counts the answers that somebody wants to send.
type countingLink struct {
	*fakeLink
	answers atomic.Int64
}

func (l *countingLink) Send(ctx context.Context, f *drivers.Frame) error {
	if f.Kind == drivers.KindError {
		l.answers.Add(1)
	}
	return l.fakeLink.Send(ctx, f)
}

// Refusals that wait when the session ends are dropped: nobody hears them, and a peer may
// have made us queue very many.
func TestRefusalsEndWithTheSession(t *testing.T) {
	fake := newFakeLink()
	fake.full = make(chan struct{})
	l := &countingLink{fakeLink: fake}
	s := newSessionOn(t, new(Registry), l)
	fake.push(drivers.Frame{Kind: drivers.KindRequest, Method: 1})
	require.Eventually(t, func() bool { return l.answers.Load() == 1 }, time.Minute, time.Millisecond)
	const requests = 5000 // while the first refusal is being sent
	for tx := range uint64(requests) {
		fake.push(drivers.Frame{Kind: drivers.KindRequest, Tx: tx << 1, Method: 1})
	}
	queued := func() int {
		s.refusals.mu.Lock()
		defer s.refusals.mu.Unlock()
		return len(s.refusals.queue)
	}
	require.Eventually(t, func() bool { return queued() == requests }, time.Minute, time.Millisecond)
	s.Fail(ipc.ErrProtocol)
	s.Close(0)
	require.Zero(t, queued())
	// One may be on its way when the session ends.
	require.LessOrEqual(t, l.answers.Load(), int64(2), "answers to nobody")
}

// What many requests fail with at once takes no memory for each.
func TestFailureOfCanceledIsShared(t *testing.T) {
	r := new(Request)
	require.Zero(t, testing.AllocsPerRun(100, func() { r.failureOf(context.Canceled) }))
	require.Equal(t, ipc.AppendError(nil, context.Canceled), r.failureOf(context.Canceled))
	require.Equal(t, ipc.CodeCanceled, ipc.CodeOf(ipc.ParseError(r.failureOf(errors.Join(context.Canceled)))))
}
