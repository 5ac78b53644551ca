package ipc

import (
	"context"
	"errors"
	"fmt"
)

// Code is a canonical error code. Numbers and meanings are those that gRPC and
// Connect share.
type Code uint8

// The canonical codes.
const (
	CodeCanceled           Code = 1
	CodeUnknown            Code = 2
	CodeInvalidArgument    Code = 3
	CodeDeadlineExceeded   Code = 4
	CodeNotFound           Code = 5
	CodeAlreadyExists      Code = 6
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeAborted            Code = 10
	CodeOutOfRange         Code = 11
	CodeUnimplemented      Code = 12
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
	CodeDataLoss           Code = 15
	CodeUnauthenticated    Code = 16
)

var codeNames = [...]string{
	CodeCanceled: "canceled", CodeUnknown: "unknown", CodeInvalidArgument: "invalid_argument",
	CodeDeadlineExceeded: "deadline_exceeded", CodeNotFound: "not_found", CodeAlreadyExists: "already_exists",
	CodePermissionDenied: "permission_denied", CodeResourceExhausted: "resource_exhausted",
	CodeFailedPrecondition: "failed_precondition", CodeAborted: "aborted", CodeOutOfRange: "out_of_range",
	CodeUnimplemented: "unimplemented", CodeInternal: "internal", CodeUnavailable: "unavailable",
	CodeDataLoss: "data_loss", CodeUnauthenticated: "unauthenticated",
}

// String returns the code's name in snake case, as Connect writes it.
func (c Code) String() string {
	if int(c) < len(codeNames) && codeNames[c] != "" {
		return codeNames[c]
	}
	return fmt.Sprintf("code_%d", uint8(c))
}

// canonical returns c, or CodeUnknown if c is none of the codes.
func (c Code) canonical() Code {
	if c < CodeCanceled || c > CodeUnauthenticated {
		return CodeUnknown
	}
	return c
}

// CodeOf returns the code that describes err best: that of an [*Error] in its
// tree, CodeUnavailable for a peer that is gone or disconnected, CodeCanceled
// and CodeDeadlineExceeded for contexts and timeouts, CodeResourceExhausted for
// [ErrExhausted] and [*SizeError], 0 for nil, and otherwise CodeUnknown.
func CodeOf(err error) Code {
	var e *Error
	var tooLarge *SizeError
	var exit *ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e) && e != nil:
		return e.Code.canonical()
	case errors.As(err, &exit) && !errors.Is(err, ErrClosed): // whatever its cause
		return CodeUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadlineExceeded
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return CodeCanceled
	case errors.Is(err, ErrPeerGone), errors.Is(err, ErrDisconnected):
		return CodeUnavailable
	case errors.As(err, &tooLarge), errors.Is(err, ErrExhausted):
		return CodeResourceExhausted
	case errors.Is(err, ErrProtocol):
		return CodeInternal
	}
	return CodeUnknown
}
