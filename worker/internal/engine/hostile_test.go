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

func (l *countingLink) Send(ctx context.Context, f drivers.Frame) error {
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
	const requests = 5000
	for tx := range uint64(requests) {
		fake.push(drivers.Frame{Kind: drivers.KindRequest, Tx: tx << 1, Method: 1})
	}
	queued := func() int {
		s.refusals.mu.Lock()
		defer s.refusals.mu.Unlock()
		return len(s.refusals.queue)
	}
	require.Eventually(t, func() bool { return queued() > requests/2 }, time.Minute, time.Millisecond)
	fake.finish(ipc.ErrPeerGone)
	s.Close(0)
	require.Zero(t, queued())
	require.Less(t, l.answers.Load(), int64(requests/2), "answers to nobody")
}

// What many requests fail with at once takes no memory for each.
func TestFailureOfCanceledIsShared(t *testing.T) {
	r := new(Request)
	require.Zero(t, testing.AllocsPerRun(100, func() { r.failureOf(context.Canceled) }))
	require.Equal(t, ipc.AppendError(nil, context.Canceled), r.failureOf(context.Canceled))
	require.Equal(t, ipc.CodeCanceled, ipc.CodeOf(ipc.ParseError(r.failureOf(errors.Join(context.Canceled)))))
}
