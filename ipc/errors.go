package ipc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Errors that end links and calls. Compare with [errors.Is].
var (
	// ErrClosed: this side has closed the client or the link.
	// It is an [os.ErrClosed] and a [net.ErrClosed], too.
	ErrClosed error = &sentinel{"tandem: closed", []error{os.ErrClosed, net.ErrClosed}}
	// ErrDisconnected: the link was disconnected; the worker may live on.
	ErrDisconnected = errors.New("tandem: disconnected")
	// ErrPeerGone: the process at the other end has ended or closed the link.
	ErrPeerGone = errors.New("tandem: peer is gone")
	// ErrProtocol: the peer sent what it must not send. The link is dead.
	ErrProtocol = errors.New("tandem: protocol error")
	// ErrQueued: the peer serves another host, and its hello will come later.
	ErrQueued = errors.New("tandem: queued")
	// ErrUnsupported: the driver, or the system, cannot do what was asked for. It is
	// an [errors.ErrUnsupported], too.
	ErrUnsupported error = &sentinel{"tandem: not supported", []error{errors.ErrUnsupported}}
	// ErrExhausted: this side or the other is short of something that the system bounds,
	// such as open files or memory. The same may succeed later. It is matched by every
	// [*ExhaustedError], and by a [*RefusedError] of a side that is short.
	ErrExhausted = errors.New("tandem: resource exhausted")
)

// sentinel is an error that is also those of the standard library that mean the
// same.
type sentinel struct {
	text string
	also []error
}

func (e *sentinel) Error() string { return e.text }

// Unwrap returns the errors of the standard library.
func (e *sentinel) Unwrap() []error { return e.also }

// A MismatchError says that two sides of a link do not agree.
type MismatchError struct {
	// What the two sides disagree on: "driver", "codec", "protocol version" ...
	What string
	// Local is our value, Remote is the peer's.
	Local, Remote string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("tandem: %s mismatch: this side has %s, the other side has %s", e.What, e.Local, e.Remote)
}

// A RefusedError says that the other side gave a reason why there is no link.
type RefusedError struct {
	// Reason is what the other side said.
	Reason string
	// Code is CodeResourceExhausted if the other side is short of a resource, CodeFailedPrecondition
	// if the two do not agree, as a [MismatchError] says on the side that has found it, and 0 for any other reason.
	Code Code
}

func (e *RefusedError) Error() string { return "tandem: refused by the other side: " + e.Reason }

// Is makes errors.Is(err, ErrExhausted) true if the other side is short of a resource.
func (e *RefusedError) Is(target error) bool {
	return target == ErrExhausted && e.Code == CodeResourceExhausted
}

// An ExhaustedError says that this process is short of a resource: by a limit of its own
// or by one of the system. For it errors.Is(err, [ErrExhausted]) is true.
type ExhaustedError struct {
	// Resource is what there is too little of: "open files", "memory", "processes or
	// threads" ...
	Resource string
	// Limit names the limit, with its value where it is known: "RLIMIT_NOFILE is 1024".
	// It is empty if no limit of the process explains the shortage.
	Limit string
	// Err is what failed. It wraps the system's error number.
	Err error
}

func (e *ExhaustedError) Error() string {
	if e.Limit == "" {
		return fmt.Sprintf("tandem: out of %s: %v", e.Resource, e.Err)
	}
	return fmt.Sprintf("tandem: out of %s (%s): %v", e.Resource, e.Limit, e.Err)
}

// Unwrap returns ErrExhausted and what failed.
func (e *ExhaustedError) Unwrap() []error { return []error{ErrExhausted, e.Err} }

// A ChecksumError says that a worker was not started, because the file of its
// program is not the one that was expected.
type ChecksumError struct {
	// Program is the path of the file.
	Program string
	// Want is the SHA-256 that was asked for, Got that of the file.
	Want, Got [sha256.Size]byte
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("tandem: %s was not started: its SHA-256 is %x, want %x", e.Program, e.Got, e.Want)
}

// A SizeError says that a message is larger than the two sides have agreed on. It has not
// been sent.
type SizeError struct {
	// Size is the size of the message, and Limit the largest allowed, in bytes.
	Size, Limit int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("tandem: message of %d bytes, largest allowed %d (see worker.WithMaxMessage)", e.Size, e.Limit)
}

// A TimeoutError says that something took longer than its timeout. For it
// errors.Is(err, context.DeadlineExceeded) is true.
type TimeoutError struct {
	// What took too long: `call of "text.count"`, "start of the worker" ...
	What string
	// After is the timeout.
	After time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("tandem: %s took longer than %v", e.What, e.After)
}

// Unwrap returns context.DeadlineExceeded.
func (e *TimeoutError) Unwrap() error { return context.DeadlineExceeded }

// Timeout returns true, so that [os.IsTimeout] and checks like it find the error.
func (e *TimeoutError) Timeout() bool { return true }

// ExitUnknown is the Code of an [ExitError] if this process cannot know how the worker
// ended. Then the worker was not its child, as after an attach; or another part of this
// program has reaped it; or the kernel has, because SIGCHLD is ignored.
const ExitUnknown = -2

// An ExitError says that the worker's process has ended. Calls that were pending, and
// later ones, fail with it, whatever the exit code.
type ExitError struct {
	// PID is the process id.
	PID int
	// Program is the program that the process ran.
	Program string
	// Code is the exit code, -1 if Signal ended the process, or [ExitUnknown].
	Code int
	// Signal is the signal that ended the process, or nil.
	Signal os.Signal
	// Stderr is the last 4 KiB of what the process wrote to stderr. If Go reported a
	// crash before that, with a line such as "panic: ...", the first 2 KiB of the
	// report come first.
	Stderr string
	// Cause is why the host killed the process, such as a [*TimeoutError] of its
	// heartbeat. It is nil if the host did not kill it, or did so in Close.
	Cause error
}

func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tandem: worker %s (pid %d) ", e.Program, e.PID)
	if e.Signal != nil {
		fmt.Fprintf(&b, "was ended by signal %v", e.Signal)
		if s, ok := e.Signal.(syscall.Signal); ok {
			fmt.Fprintf(&b, " (%d)", int(s))
		}
	} else if e.Code == ExitUnknown {
		b.WriteString("has ended; how it has ended is not known")
	} else {
		fmt.Fprintf(&b, "exited with code %d", e.Code)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ", as the host had to kill it: %v", e.Cause)
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		fmt.Fprintf(&b, "; its last words: %s", s)
	}
	return b.String()
}

// Unwrap returns ErrPeerGone, and the cause if there is one.
func (e *ExitError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrPeerGone}
	}
	return []error{ErrPeerGone, e.Cause}
}
