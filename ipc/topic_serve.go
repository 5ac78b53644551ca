package ipc

import (
	"context"
	"errors"
)

// serve serves one subscription.
func (f *topicFeed) serve(ctx context.Context, st Stream) error {
	b, err := st.Receive(ctx)
	if err != nil {
		return Errorf(CodeInvalidArgument, "receive the request of a subscription to %q: %w", f.name, err)
	}
	request, err := parseTopicRequest(b)
	if err != nil {
		return Errorf(CodeInvalidArgument, "subscribe to %q: %w", f.name, err)
	}
	ctx, cutOff := context.WithCancelCause(ctx)
	defer cutOff(nil)
	s, begin, first, err := f.join(request, cutOff)
	if err != nil {
		return err
	}
	if s != nil {
		defer f.leave(s)
	}
	err = f.send(ctx, st, s, begin, first)
	if cause := context.Cause(ctx); errors.Is(cause, ErrCutOff) {
		return Errorf(CodeAborted, "subscription to %q: %w: %v", f.name, cause, f.cutOff)
	}
	return err
}

// send sends a subscriber all that is its, until it is over.
func (f *topicFeed) send(ctx context.Context, st Stream, s *topicSub, begin topicBegin, first [][]byte) error {
	if err := st.Send(ctx, begin.append(nil)); err != nil {
		return err
	}
	inOrder(first)
	for i, b := range first {
		if err := st.Send(ctx, b); err != nil {
			return err
		}
		first[i] = nil
	}
	if s == nil {
		return nil
	}
	var batch [][]byte
	for {
		var over bool
		batch, over = f.take(s, batch[:0])
		for i, b := range batch {
			if err := st.Send(ctx, b); err != nil {
				return err
			}
			batch[i] = nil
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
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
