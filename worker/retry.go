package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
	"github.com/tandemipc/tandem/worker/internal/retry"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// WithRetry sends a request again when the worker has ended before it answered, if the
// request's method is declared [ipc.WithIdempotent]. attempts is how often a request is
// sent in all. All attempts, and the waiting for the next process, share the timeout and
// the context of the call. Methods and calls can have attempts of their own: see
// [ipc.WithAttempts].
//
// Without [WithRestart], WithRetry implies that option with the zero [Restart]. WithRetry
// panics if attempts is less than 1.
//
// If a request has certainly not been sent, because the worker was down, it is sent
// later, whatever its method is declared.
func WithRetry(attempts int) Option { return withRetry(attempts, false) }

// WithRetryAll is [WithRetry] for all methods, also those that are not declared
// idempotent. It is dangerous: the worker may have run the request, in part or to its
// end, before it ended, and the next one then runs it again.
func WithRetryAll(attempts int) Option { return withRetry(attempts, true) }

func withRetry(attempts int, all bool) Option {
	if attempts < 1 {
		panic(fmt.Sprintf("tandem: %d attempts, need at least 1", attempts))
	}
	return func(s *Settings) { s.Attempts, s.RetryAll = attempts, all }
}

// persist makes a call, if need be over several lives of the peer.
func (c *caller) persist(ctx context.Context, inv *ipc.Invocation, request, memory []byte) ([]byte, error) {
	timeout := inv.Timeout
	if timeout == ipc.DefaultTimeout {
		timeout = c.settings.Timeouts.Call
	}
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	attempts := retry.Attempts(inv, c.settings.Attempts, c.settings.RetryAll)
	for n := 1; ; n++ {
		l := c.now.Load()
		s := l.session.Load()
		var response []byte
		err := leaving(s)
		if err == nil {
			response, err = c.attempt(ctx, s, n, inv, request, memory)
		}
		if err == nil {
			return response, nil
		}
		if _, over := err.(*ipc.TimeoutError); over { // of the time that was left
			return nil, engine.TimedOut(inv.Method.Name, timeout)
		}
		memory = nil // it was taken over
		if !retry.Again(err, &attempts) {
			c.notRetried.Give(c.settings.Logger, err, inv, c.settings.Attempts, c.settings.RetryAll)
			return nil, err
		}
		if err := c.awaitNext(ctx, l, s, deadline, err); err != nil {
			if errors.Is(err, engine.ErrTimeout) {
				err = engine.TimedOut(inv.Method.Name, timeout)
			}
			return nil, err
		}
		if timeout > 0 {
			again := *inv
			if again.Timeout = time.Until(deadline); again.Timeout <= 0 {
				return nil, engine.TimedOut(inv.Method.Name, timeout)
			}
			inv = &again
		}
	}
}

// leaving returns an error if the peer has said goodbye, so that s takes nothing new.
func leaving(s *engine.Session) error {
	if wait.Closed(s.Goodbye()) {
		return errLeaving
	}
	return nil
}

var errLeaving = retry.NotSent(fmt.Errorf("%w: it has said goodbye", ipc.ErrPeerGone))

// persistStream opens a stream, if need be after the next start of the worker.
func (c *caller) persistStream(ctx context.Context, inv *ipc.Invocation, o *ipc.StreamOpening) (ipc.Stream, error) {
	timeout := max(inv.Timeout, 0)
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	attempts := 1
	for n := 1; ; n++ {
		l := c.now.Load()
		s := l.session.Load()
		var st ipc.Stream
		err := leaving(s)
		if err == nil {
			st, err = c.attemptStream(ctx, s, n, inv, o)
		}
		if err == nil || !retry.Again(err, &attempts) {
			return st, err
		}
		if err := c.awaitNext(ctx, l, s, deadline, err); err != nil {
			if errors.Is(err, engine.ErrTimeout) {
				err = engine.TimedOut(inv.Method.Name, timeout)
			}
			return nil, err
		}
		if timeout > 0 {
			again := *inv
			if again.Timeout = time.Until(deadline); again.Timeout <= 0 {
				return nil, engine.TimedOut(inv.Method.Name, timeout)
			}
			inv = &again
		}
	}
}

// awaitNext waits for a session later than s, of the life l. If there will be
// none it returns why, or else failed.
func (c *caller) awaitNext(ctx context.Context, l *life, s *engine.Session, deadline time.Time, failed error) error {
	var timeout <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-l.after:
	case <-s.Replaced():
		return nil
	case <-c.ctx.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout:
		return engine.ErrTimeout
	}
	gaveUp := c.gaveUp.Load()
	switch {
	case c.closing.Load():
		return ipc.ErrClosed
	case gaveUp != nil:
		return *gaveUp
	case c.now.Load() == l:
		return failed // the worker was left to itself
	}
	return nil
}
