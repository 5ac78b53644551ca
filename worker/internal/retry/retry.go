// Package retry says which calls may be sent again after they have failed.
package retry

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

// DetailDraining is in the details of the error with which a worker that shuts down
// refuses a request. The handler has not run.
const DetailDraining = "tandem.draining"

// unsentError marks an error after which the peer has certainly not got the request.
type unsentError struct{ error }

// Unwrap returns the error that is marked.
func (e unsentError) Unwrap() error { return e.error }

// NotSent marks err, with which a request could not be sent, if the end of the link
// was the reason.
func NotSent(err error) error {
	if errors.Is(err, ipc.ErrPeerGone) {
		return unsentError{err}
	}
	return err
}

// Attempts returns how often the request of a call may be sent in all. attempts is
// what the caller has for all its calls, and all says that they count for methods
// that are not idempotent, too.
func Attempts(inv *ipc.Invocation, attempts int, all bool) int {
	switch {
	case !inv.Idempotent && !all:
		return 1
	case inv.Attempts > 0:
		return inv.Attempts
	}
	return max(attempts, 1)
}

// Again reports whether a call that failed with err may be made again. It takes one
// from attempts, those that are left, unless the request has certainly not been run.
func Again(err error, attempts *int) bool {
	var e *ipc.Error
	var unsent unsentError
	switch {
	case errors.As(err, &e):
		return e.Remote() && e.Details[DetailDraining] != ""
	case !errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrClosed):
		return false
	case errors.As(err, &unsent):
		return true
	}
	*attempts--
	return *attempts > 0
}

// Notice tells a user once why a call was not made again, though it was to be.
type Notice struct{ once sync.Once }

// Give tells log, once, that a call that has failed with err is not made again because
// its method is not idempotent. attempts and all are those of [Attempts].
func (n *Notice) Give(log *slog.Logger, err error, inv *ipc.Invocation, attempts int, all bool) {
	if attempts <= 1 || all || inv.Idempotent || !errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrClosed) {
		return
	}
	n.once.Do(func() {
		log.Warn("tandem: a call is not made again, for its method is not declared with ipc.WithIdempotent", "method", inv.Method.Name, "error", err)
	})
}
