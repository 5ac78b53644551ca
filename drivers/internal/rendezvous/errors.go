package rendezvous

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// Errors of [Listen] and [Dial]. Compare with [errors.Is].
var (
	// ErrServed: a process listens at the name already. It is a [syscall.EADDRINUSE], too.
	ErrServed error = newSentinel("tandem: somebody listens there already", ipc.CodeAlreadyExists, syscall.EADDRINUSE)
	// ErrNotServed: nobody listens at the name. [ipc.CodeOf] of it is CodeUnavailable.
	ErrNotServed error = newSentinel("tandem: nobody listens there", ipc.CodeUnavailable)
	// ErrNotAllowed: this process may not connect, or the process that listens may not serve it.
	// It is an [fs.ErrPermission], too.
	ErrNotAllowed error = newSentinel("tandem: not allowed", ipc.CodePermissionDenied, fs.ErrPermission)
	// ErrNotSocket: there is something else at the name than a stream socket.
	ErrNotSocket error = newSentinel("tandem: not a stream socket", ipc.CodeFailedPrecondition, syscall.ENOTSOCK)
	// ErrBadName: nothing can have this name.
	ErrBadName error = newSentinel("tandem: bad name", ipc.CodeInvalidArgument)
)

// sentinel is an error that has a code, and is also those of the standard library that mean
// the same.
type sentinel struct {
	text string
	also []error
}

func newSentinel(text string, code ipc.Code, also ...error) *sentinel {
	return &sentinel{text, append(also, ipc.NewError(code, text))}
}

func (e *sentinel) Error() string { return e.text }

// Unwrap returns the errors that mean the same.
func (e *sentinel) Unwrap() []error { return e.also }

// failed says what kind of failure of the system err is: a lack of rights, a shortage, or any other.
func failed(err error) error {
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, ErrNotAllowed) {
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return process.Shortage(err)
}

// A LimitError says that a server has as many of something as it takes. For it
// errors.Is(err, [ipc.ErrExhausted]) is true.
type LimitError struct {
	// What there are too many of: "clients", "clients of one user" ...
	What string
	// Limit is the most that the server takes.
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("tandem: the server takes at most %d %s", e.Limit, e.What)
}

// Unwrap returns ipc.ErrExhausted.
func (e *LimitError) Unwrap() error { return ipc.ErrExhausted }
