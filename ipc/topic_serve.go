package ipc

import (
	"context"
	"errors"

	"github.com/tandemipc/tandem/ring/broadcast"
)

// serve serves one subscription.
func (f *topicFeed) serve(ctx context.Context, st Stream, draining <-chan struct{}) error {
	b, err := st.Receive(ctx)
	if err != nil {
		return Errorf(CodeInvalidArgument, "receive the request of a subscription to %q: %w", f.name, err)
	}
	request, err := parseTopicRequest(b)
	if err != nil {
		return Errorf(CodeInvalidArgument, "subscribe to %q: %w", f.name, err)
	}
	own, err := f.ownSegment(request, st)
	if err != nil {
		return Errorf(CodeInvalidArgument, "subscribe to %q: %w", f.name, err)
	}
	defer closeSegment(own)
	ctx, cutOff := context.WithCancelCause(ctx)
	defer cutOff(nil)
	err = f.serveOne(ctx, st, draining, request, own, cutOff)
	if err == errNotShared {
		err = f.serveOne(ctx, st, draining, request, nil, cutOff)
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrCutOff) {
		return Errorf(CodeAborted, "subscription to %q: %w: %v", f.name, cause, f.cutOff)
	}
	return err
}

// errNotShared says that a subscriber that was to read shared memory cannot get it.
var errNotShared = errors.New("tandem: no shared memory")

func (f *topicFeed) serveOne(ctx context.Context, st Stream, draining <-chan struct{}, request topicRequest, own *broadcast.Segment, cutOff context.CancelCauseFunc) error {
	s, begin, first, err := f.join(request, own, cutOff)
	if err != nil {
		return err
	}
	defer f.leave(s)
	inOrder(first)
	if s.peer == nil {
		return f.send(ctx, st, draining, s, begin, first)
	}
	defer s.peer.Remove()
	return f.serveShared(ctx, st.(AttachedStream), draining, s, begin, first)
}

// sendFirst sends the records of a snapshot.
func sendFirst(ctx context.Context, st Stream, first [][]byte) error {
	for i, b := range first {
		if err := st.Send(ctx, b); err != nil {
			return err
		}
		first[i] = nil
	}
	return nil
}

// send sends a subscriber all that is its, until it is over.
func (f *topicFeed) send(ctx context.Context, st Stream, draining <-chan struct{}, s *topicSub, begin topicBegin, first [][]byte) error {
	if err := st.Send(ctx, begin.append(nil)); err != nil {
		return err
	}
	if err := sendFirst(ctx, st, first); err != nil {
		return err
	}
	var batch [][]byte
	for {
		var over bool
		batch, over = f.take(s, batch[:0])
		if err := sendFirst(ctx, st, batch); err != nil {
			return err
		}
		switch {
		case over:
			return context.Cause(ctx)
		case len(batch) > 0:
			continue
		}
		if err := st.Flush(ctx); err != nil {
			return err
		}
		select {
		case <-s.wake:
		case <-draining:
			f.finish(s)
			draining = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
