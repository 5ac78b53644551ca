package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// WithRetry sends a request again, up to so many attempts in all, when the worker
// has ended before it answered, if its method is declared [ipc.WithIdempotent]. The
// attempts, and the waiting for the next process, share the limit and the context
// of the call. Methods and calls can have attempts of their own: see
// [ipc.WithAttempts].
//
// It implies [WithRestart] with its zero value if that is not given. It panics if
// attempts is less than 1.
//
// A request that has certainly not been sent, since the worker was down, is sent
// later in any case, of whichever method.
func WithRetry(attempts int) Option { return withRetry(attempts, false) }

// WithRetryAll is [WithRetry] for all methods, also those that are not declared
// idempotent. It is dangerous: the worker may have run the request, in part or to
// its end, before it ended, and will then run it again.
func WithRetryAll(attempts int) Option { return withRetry(attempts, true) }

func withRetry(attempts int, all bool) Option {
	if attempts < 1 {
		panic(fmt.Sprintf("tandem: %d attempts, need at least 1", attempts))
	}
	return func(o *options) { o.attempts, o.retryAll = attempts, all }
}

// attemptsFor is how often a request may be sent in all.
func (o *options) attemptsFor(inv *ipc.Invocation) int {
	switch {
	case !inv.Idempotent && !o.retryAll:
		return 1
	case inv.Attempts > 0:
		return inv.Attempts
	}
	return max(o.attempts, 1)
}

// unsentError marks an error after which the peer has certainly not got the
// request.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }

// notSent marks err if the link was the reason.
func notSent(err error) error {
	if errors.Is(err, ipc.ErrPeerGone) {
		return unsentError{err}
	}
	return err
}

// sendAgain reports whether a call that failed with err may be made again, and
// counts an attempt if it was one.
func sendAgain(err error, attempts *int) bool {
	var e *ipc.Error
	var unsent unsentError
	switch {
	case errors.As(err, &e):
		return e.Remote() && e.Details[detailDraining] != ""
	case !errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrClosed):
		return false
	case errors.As(err, &unsent):
		return true
	}
	*attempts--
	return *attempts > 0
}

// persist makes a call, if need be over several lives of the worker.
func (c *Client[C]) persist(ctx context.Context, inv ipc.Invocation) ([]byte, error) {
	limit := inv.Timeout
	if limit == ipc.DefaultTimeout {
		limit = c.opts.timeouts.Call
	}
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	for attempts := c.opts.attemptsFor(&inv); ; {
		l := c.life.Load()
		s := l.session.Load()
		response, err := s.Invoke(ctx, inv)
		if err == nil {
			return response, nil
		}
		if _, over := err.(*ipc.TimeoutError); over { // of the time that was left
			return nil, timedOut(inv.Method.Name, limit)
		}
		if !sendAgain(err, &attempts) {
			return nil, err
		}
		if err := c.awaitNext(ctx, l, s, deadline, err); err != nil {
			if errors.Is(err, errTimeout) {
				err = timedOut(inv.Method.Name, limit)
			}
			return nil, err
		}
		if limit > 0 {
			if inv.Timeout = time.Until(deadline); inv.Timeout <= 0 {
				return nil, timedOut(inv.Method.Name, limit)
			}
		}
	}
}

// awaitNext waits for a session later than s, of the life l. If there will be none
// it returns why, or else failed.
func (c *Client[C]) awaitNext(ctx context.Context, l *life[C], s *session, deadline time.Time, failed error) error {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-l.after:
	case <-s.replaced:
		return nil
	case <-c.ctx.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout:
		return errTimeout
	}
	gaveUp := c.gaveUp.Load()
	switch {
	case c.closing.Load():
		return ipc.ErrClosed
	case gaveUp != nil:
		return *gaveUp
	case c.life.Load() == l:
		return failed // the worker was left to itself
	}
	return nil
}
