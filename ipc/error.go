package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Error is an error with a code. A handler's error reaches its caller as an Error. A
// handler that wants to choose the code returns one.
//
// If the handler's error wraps a sentinel that was registered with [RegisterError],
// [errors.Is] finds that sentinel in the caller's error, too.
type Error struct {
	// Code says what kind of failure it was.
	Code Code
	// Message is for people.
	Message string
	// Details is for programs, such as the name of the field that was wrong.
	Details map[string]string
	// Stack is where a handler panicked, "" if it did not.
	Stack string

	cause     error   // on the side that made it
	sentinels []error // on the side that received it
	remote    bool
}

// NewError returns an error with a code and a message.
func NewError(code Code, message string) *Error { return &Error{Code: code, Message: message} }

// Errorf returns an error with a code, and a message that it formats like [fmt.Errorf]; %w
// wraps.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: err}
}

func (e *Error) Error() string {
	if e == nil {
		return "nil *ipc.Error"
	}
	return e.Code.String() + ": " + e.Message
}

// Remote reports whether the error came from the other process.
func (e *Error) Remote() bool { return e.remote }

// Unwrap returns the registered sentinels that crossed with the error, or what
// Errorf wrapped.
func (e *Error) Unwrap() []error {
	if e == nil {
		return nil
	}
	if e.cause != nil {
		return []error{e.cause}
	}
	return e.sentinels
}

var sentinels struct {
	sync.RWMutex
	names []string // sorted
	errs  map[string]error
}

func init() {
	RegisterError("context.Canceled", context.Canceled)
	RegisterError("context.DeadlineExceeded", context.DeadlineExceeded)
	RegisterError("io.EOF", io.EOF)
	RegisterError("io.ErrUnexpectedEOF", io.ErrUnexpectedEOF)
	RegisterError("fs.ErrExist", fs.ErrExist)
	RegisterError("fs.ErrNotExist", fs.ErrNotExist)
	RegisterError("fs.ErrPermission", fs.ErrPermission)
	RegisterError("errors.ErrUnsupported", errors.ErrUnsupported)
}

// RegisterError gives a sentinel error a name that both sides know. If errors.Is finds
// the sentinel in a handler's error, it then also finds it in the caller's. Call it in a
// package that host and worker both import. Some sentinels of context, io and io/fs are
// registered already. RegisterError panics if the name is taken.
func RegisterError(name string, sentinel error) {
	if sentinel == nil {
		panic(fmt.Sprintf("tandem: sentinel error %q is nil", name))
	}
	sentinels.Lock()
	defer sentinels.Unlock()
	if sentinels.errs == nil {
		sentinels.errs = make(map[string]error)
	}
	if _, taken := sentinels.errs[name]; taken {
		panic(fmt.Sprintf("tandem: sentinel error %q is registered twice", name))
	}
	sentinels.errs[name] = sentinel
	i, _ := slices.BinarySearch(sentinels.names, name)
	sentinels.names = slices.Insert(sentinels.names, i, name)
}

// wireError is the payload of an error frame, in CBOR whatever the link's codec.
type wireError struct {
	Code      Code              `cbor:"1,keyasint"`
	Message   string            `cbor:"2,keyasint,omitempty"`
	Details   map[string]string `cbor:"3,keyasint,omitempty"`
	Stack     string            `cbor:"4,keyasint,omitempty"`
	Sentinels []string          `cbor:"5,keyasint,omitempty"`
}

// maxErrorParts bounds the details and the sentinels of an error that crosses, so that a
// peer's error cannot take far more memory than its frame.
const maxErrorParts = 1024

var errorDec = must(cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	IndefLength:      cbor.IndefLengthForbidden,
	MaxNestedLevels:  8,
	MaxArrayElements: maxErrorParts,
	MaxMapPairs:      maxErrorParts,
	UTF8:             cbor.UTF8DecodeInvalid,
}.DecMode())

// AppendError appends err, as the payload of an error frame, to dst. An error crosses with
// up to 1024 details, the first ones by name, and as many sentinels.
func AppendError(dst []byte, err error) []byte {
	w := wireError{Code: CodeOf(err), Message: err.Error()}
	var e *Error
	if errors.As(err, &e) && e != nil {
		w.Details, w.Stack = firstDetails(e.Details), e.Stack
		if err == error(e) {
			w.Message = e.Message
		}
	}
	sentinels.RLock()
	for _, name := range sentinels.names {
		if len(w.Sentinels) < maxErrorParts && errors.Is(err, sentinels.errs[name]) {
			w.Sentinels = append(w.Sentinels, name)
		}
	}
	sentinels.RUnlock()
	return must(CBOR.Append(dst, &w))
}

// firstDetails returns those details that cross.
func firstDetails(details map[string]string) map[string]string {
	if len(details) <= maxErrorParts {
		return details
	}
	first := make(map[string]string, maxErrorParts)
	for _, name := range slices.Sorted(maps.Keys(details))[:maxErrorParts] {
		first[name] = details[name]
	}
	return first
}

// ParseError decodes the payload of an error frame.
func ParseError(payload []byte) *Error {
	var w wireError
	if err := errorDec.Unmarshal(payload, &w); err != nil {
		return &Error{Code: CodeInternal, Message: fmt.Sprintf("the peer sent an error that cannot be read: %v", err), remote: true}
	}
	e := &Error{Code: w.Code.canonical(), Message: w.Message, Details: w.Details, Stack: w.Stack, remote: true}
	sentinels.RLock()
	defer sentinels.RUnlock()
	for _, name := range w.Sentinels {
		if s, ok := sentinels.errs[name]; ok {
			e.sentinels = append(e.sentinels, s)
		}
	}
	return e
}
