package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

var (
	errFull  = errors.New("queue is full")
	errLocal = errors.New("known to one side only")
)

func init() { ipc.RegisterError("ipc_test.errFull", errFull) }

func TestCodeNames(t *testing.T) {
	names := strings.Fields(`canceled unknown invalid_argument deadline_exceeded not_found already_exists
		permission_denied resource_exhausted failed_precondition aborted out_of_range unimplemented internal
		unavailable data_loss unauthenticated`)
	require.Len(t, names, 16)
	for i, want := range names {
		assert.Equal(t, want, ipc.Code(i+1).String())
	}
	assert.Equal(t, "code_0", ipc.Code(0).String())
	assert.Equal(t, "code_17", ipc.Code(17).String())
	assert.Equal(t, "code_255", ipc.Code(255).String())
	assert.EqualValues(t, 5, ipc.CodeNotFound)
	assert.EqualValues(t, 16, ipc.CodeUnauthenticated)
}

func TestCodeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want ipc.Code
	}{
		{nil, 0},
		{errLocal, ipc.CodeUnknown},
		{ipc.NewError(ipc.CodeDataLoss, "x"), ipc.CodeDataLoss},
		{fmt.Errorf("wrapped: %w", ipc.NewError(ipc.CodeAborted, "x")), ipc.CodeAborted},
		{errors.Join(errLocal, ipc.NewError(ipc.CodeAborted, "x")), ipc.CodeAborted},
		{ipc.Errorf(ipc.CodeNotFound, "%w", context.Canceled), ipc.CodeNotFound},
		{context.Canceled, ipc.CodeCanceled},
		{fmt.Errorf("wrapped: %w", context.DeadlineExceeded), ipc.CodeDeadlineExceeded},
		{&ipc.TimeoutError{What: "call", After: time.Second}, ipc.CodeDeadlineExceeded},
		{os.ErrDeadlineExceeded, ipc.CodeUnknown},
		{ipc.ErrClosed, ipc.CodeCanceled},
		{ipc.ErrPeerGone, ipc.CodeUnavailable},
		{ipc.ErrDisconnected, ipc.CodeUnavailable},
		{&ipc.ExitError{Code: 1}, ipc.CodeUnavailable},
		{&ipc.SizeError{Size: 2, Limit: 1}, ipc.CodeResourceExhausted},
		{fmt.Errorf("%w: bad tag", ipc.ErrProtocol), ipc.CodeInternal},
	} {
		assert.Equal(t, c.want, ipc.CodeOf(c.err), "%v", c.err)
	}
}

func TestErrorf(t *testing.T) {
	err := ipc.Errorf(ipc.CodeUnavailable, "queue %q: %w", "in", errFull)
	assert.Equal(t, `queue "in": queue is full`, err.Message)
	assert.EqualError(t, err, `unavailable: queue "in": queue is full`)
	assert.ErrorIs(t, err, errFull)
	assert.False(t, err.Remote())
	var path *fs.PathError
	assert.ErrorAs(t, ipc.Errorf(ipc.CodeNotFound, "%w and %w", errFull, &fs.PathError{Op: "open", Err: fs.ErrNotExist}), &path)
	assert.NotErrorIs(t, ipc.NewError(ipc.CodeUnavailable, "queue is full"), errFull)
}

// cross sends err to the other side.
func cross(t *testing.T, err error) *ipc.Error {
	t.Helper()
	b := ipc.AppendError([]byte("dst"), err)
	require.Equal(t, "dst", string(b[:3]))
	got := ipc.ParseError(b[3:])
	clear(b)
	return got
}

func TestErrorCrosses(t *testing.T) {
	in := &ipc.Error{Code: ipc.CodeOutOfRange, Message: "page 7", Details: map[string]string{"field": "page"}, Stack: "goroutine 1"}
	out := cross(t, in)
	assert.Equal(t, in.Code, out.Code)
	assert.Equal(t, in.Message, out.Message)
	assert.Equal(t, in.Details, out.Details)
	assert.Equal(t, in.Stack, out.Stack)
	assert.True(t, out.Remote())
	assert.False(t, in.Remote())

	out = cross(t, fmt.Errorf("while paging: %w", in))
	assert.Equal(t, ipc.CodeOutOfRange, out.Code)
	assert.Equal(t, "while paging: out_of_range: page 7", out.Message, "what wraps an Error is told")
	assert.Equal(t, in.Details, out.Details)

	out = cross(t, errLocal)
	assert.Equal(t, ipc.CodeUnknown, out.Code)
	assert.Equal(t, "known to one side only", out.Message)
	assert.NotErrorIs(t, out, errLocal)
}

func TestSentinelsCross(t *testing.T) {
	for _, sentinel := range []error{
		errFull, context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF,
		fs.ErrExist, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported,
	} {
		for _, err := range []error{
			sentinel,
			fmt.Errorf("a: %w", fmt.Errorf("b: %w", sentinel)),
			errors.Join(errLocal, sentinel),
			ipc.Errorf(ipc.CodeAborted, "a: %w", sentinel),
		} {
			out := cross(t, err)
			assert.ErrorIs(t, out, sentinel, "%v", err)
			for _, other := range []error{errFull, io.EOF, fs.ErrExist} {
				if other != sentinel {
					assert.NotErrorIs(t, out, other, "%v", err)
				}
			}
			assert.ErrorIs(t, cross(t, fmt.Errorf("passed on: %w", out)), sentinel, "%v, over two hops", err)
		}
	}
	both := cross(t, errors.Join(io.EOF, errFull))
	assert.ErrorIs(t, both, io.EOF)
	assert.ErrorIs(t, both, errFull)

	_, err := os.Open("/no/such/file")
	assert.ErrorIs(t, cross(t, err), fs.ErrNotExist, "errors.Is decides, not identity")
	assert.ErrorIs(t, cross(t, &ipc.TimeoutError{What: "x", After: 1}), context.DeadlineExceeded)
}

func TestUnknownSentinelsAreSkipped(t *testing.T) {
	payload, err := ipc.CBOR.Append(nil, map[int]any{1: 4, 2: "late", 5: []string{"from.a.newer.version", "io.EOF"}, 99: "new field"})
	require.NoError(t, err)
	out := ipc.ParseError(payload)
	assert.Equal(t, ipc.CodeDeadlineExceeded, out.Code)
	assert.Equal(t, "late", out.Message)
	assert.ErrorIs(t, out, io.EOF)
	assert.Len(t, out.Unwrap(), 1)
}

func TestParseErrorHostile(t *testing.T) {
	for _, b := range [][]byte{nil, {0xff}, {0xa1}, {0x01}, []byte("text"), {0xa1, 1, 0x61, 'x'}, {0xa1, 1, 0x19, 1, 0}} {
		out := ipc.ParseError(b)
		require.NotNil(t, out)
		assert.Equal(t, ipc.CodeInternal, out.Code, "%x", b)
		assert.ErrorContains(t, out, "cannot be read")
		assert.True(t, out.Remote())
	}
}

// A handler's error may hold any bytes. The caller has to get its code and
// something that can be read.
func TestErrorThatIsNotUTF8(t *testing.T) {
	for _, in := range []*ipc.Error{
		{Code: ipc.CodeNotFound, Message: "file \xff\xfe is missing"},
		{Code: ipc.CodeNotFound, Message: "file is missing", Details: map[string]string{"name": "\xff"}},
		{Code: ipc.CodeNotFound, Message: "file is missing", Details: map[string]string{"\xff": "name"}},
		{Code: ipc.CodeNotFound, Message: "file is missing", Stack: "\xff"},
	} {
		out := cross(t, in)
		assert.Equal(t, ipc.CodeNotFound, out.Code, "%q", in)
		assert.Equal(t, in.Message, out.Message)
		assert.Equal(t, in.Details, out.Details)
		assert.Equal(t, in.Stack, out.Stack)
	}
	assert.ErrorIs(t, cross(t, fmt.Errorf("\xff: %w", io.EOF)), io.EOF)
}

// What is no code is CodeUnknown, so that 0 stays for no error.
func TestErrorWithoutCode(t *testing.T) {
	for _, code := range []ipc.Code{0, 17, 255} {
		in := &ipc.Error{Code: code, Message: "x"}
		assert.Equal(t, ipc.CodeUnknown, ipc.CodeOf(in))
		assert.Equal(t, ipc.CodeUnknown, cross(t, in).Code)
	}
	var none *ipc.Error
	assert.Equal(t, ipc.CodeUnknown, ipc.CodeOf(none))
	assert.Equal(t, "nil *ipc.Error", cross(t, none).Message)
}

func TestErrorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := &ipc.Error{
			Code:    ipc.Code(rapid.Uint8Range(1, 16).Draw(t, "code")),
			Message: rapid.String().Draw(t, "message"),
			Details: rapid.MapOfN(rapid.String(), rapid.String(), 1, 5).Draw(t, "details"),
			Stack:   rapid.String().Draw(t, "stack"),
		}
		out := ipc.ParseError(ipc.AppendError(nil, in))
		if out.Code != in.Code || out.Message != in.Message || out.Stack != in.Stack {
			t.Fatalf("got %+v, want %+v", out, in)
		}
		assert.Equal(t, in.Details, out.Details)
	})
}

func FuzzParseError(f *testing.F) {
	f.Add(ipc.AppendError(nil, fmt.Errorf("x: %w", io.EOF)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out := ipc.ParseError(b); out == nil || !out.Remote() {
			t.Errorf("got %+v", out)
		}
	})
}

func TestRegisterErrorPanics(t *testing.T) {
	assert.PanicsWithValue(t, `tandem: sentinel error "ipc_test.errFull" is registered twice`,
		func() { ipc.RegisterError("ipc_test.errFull", errLocal) })
	assert.PanicsWithValue(t, `tandem: sentinel error "io.EOF" is registered twice`,
		func() { ipc.RegisterError("io.EOF", io.EOF) })
	assert.PanicsWithValue(t, `tandem: sentinel error "nothing" is nil`,
		func() { ipc.RegisterError("nothing", nil) })
}

func TestErrorTexts(t *testing.T) {
	for err, want := range map[error]string{
		&ipc.SizeError{Size: 9, Limit: 8}:                                                             "tandem: message of 9 bytes, largest allowed 8 (see worker.WithMaxMessage)",
		&ipc.TimeoutError{What: `call of "a"`, After: time.Second}:                                    `tandem: call of "a" took longer than 1s`,
		&ipc.RefusedError{Reason: "no"}:                                                               "tandem: refused by the other side: no",
		&ipc.ExhaustedError{Resource: "memory", Err: syscall.ENOMEM}:                                  "tandem: out of memory: cannot allocate memory",
		&ipc.ExhaustedError{Resource: "open files", Limit: "RLIMIT_NOFILE is 9", Err: syscall.EMFILE}: "tandem: out of open files (RLIMIT_NOFILE is 9): too many open files",
		&ipc.ExitError{PID: 7, Program: "w", Code: 3, Stderr: " boom\n"}:                              "tandem: worker w (pid 7) exited with code 3; its last words: boom",
		&ipc.ExitError{PID: 7, Program: "w", Code: 0}:                                                 "tandem: worker w (pid 7) exited with code 0",
		&ipc.ExitError{PID: 7, Program: "w", Code: -1, Signal: os.Kill}:                               "tandem: worker w (pid 7) was ended by signal killed (9)",
		&ipc.MismatchError{What: "codec", Local: "cbor", Remote: "json"}:                              "tandem: codec mismatch: this side has cbor, the other side has json",
		&ipc.ExitError{PID: 7, Program: "w", Code: -1, Signal: fakeSignal{}}:                          "tandem: worker w (pid 7) was ended by signal fake",
	} {
		assert.EqualError(t, err, want)
	}
	assert.ErrorIs(t, &ipc.ExitError{Signal: syscall.SIGKILL}, ipc.ErrPeerGone)
	assert.ErrorIs(t, &ipc.TimeoutError{}, context.DeadlineExceeded)
}

type fakeSignal struct{}

func (fakeSignal) String() string { return "fake" }
func (fakeSignal) Signal()        {}

// An error takes no more memory than its frame and a little, whatever a peer puts into it,
// and one with many details crosses with those that fit.
func TestErrorPartsAreBounded(t *testing.T) {
	many := make(map[string]string)
	for i := range 3000 {
		many[fmt.Sprintf("%05d", i)] = "x"
	}
	e := ipc.ParseError(ipc.AppendError(nil, &ipc.Error{Code: ipc.CodeNotFound, Message: "m", Details: many}))
	require.Equal(t, ipc.CodeNotFound, e.Code)
	require.Len(t, e.Details, 1024)
	require.Contains(t, e.Details, "01023")

	const size = 4 << 20
	sentinels := append([]byte{0xa1, 0x05, 0x9a, 0, size >> 16, 0, 0}, bytes.Repeat([]byte{0x60}, size)...)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e = ipc.ParseError(sentinels)
		}
	}).AllocedBytesPerOp()
	require.Equal(t, ipc.CodeInternal, e.Code)
	require.Less(t, allocated, int64(64<<10))
}

// errors.Is finds the sentinels of the standard library in ours.
func TestSentinelsAreThoseOfTheStandardLibrary(t *testing.T) {
	for _, c := range []struct {
		err error
		is  []error
	}{
		{ipc.ErrClosed, []error{os.ErrClosed, fs.ErrClosed, net.ErrClosed}},
		{ipc.ErrUnsupported, []error{errors.ErrUnsupported}},
		{&ipc.TimeoutError{What: "x", After: 1}, []error{context.DeadlineExceeded}},
	} {
		wrapped := fmt.Errorf("while closing: %w", c.err)
		for _, is := range c.is {
			assert.ErrorIs(t, wrapped, is)
			assert.NotErrorIs(t, is, c.err, "the other way round it does not hold")
		}
		assert.ErrorIs(t, wrapped, c.err)
	}
	assert.NotErrorIs(t, ipc.ErrClosed, ipc.ErrUnsupported)
	assert.NotErrorIs(t, ipc.ErrDisconnected, os.ErrClosed)
	assert.ErrorIs(t, cross(t, fmt.Errorf("no such codec: %w", ipc.ErrUnsupported)), errors.ErrUnsupported, "it crosses")
}

// Whichever side is short of something, and however that was learnt, is the same question.
func TestExhausted(t *testing.T) {
	own := error(&ipc.ExhaustedError{Resource: "open files", Err: os.NewSyscallError("pipe2", syscall.EMFILE)})
	theirs := error(&ipc.RefusedError{Reason: "out of open files", Code: ipc.CodeResourceExhausted})
	for _, err := range []error{own, theirs} {
		wrapped := fmt.Errorf("while starting: %w", err)
		assert.ErrorIs(t, wrapped, ipc.ErrExhausted)
		assert.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(wrapped))
		assert.NotErrorIs(t, wrapped, ipc.ErrUnsupported)
	}
	assert.ErrorIs(t, own, syscall.EMFILE)
	assert.NotErrorIs(t, theirs, syscall.EMFILE, "it is the other side's")
	assert.NotErrorIs(t, &ipc.RefusedError{Reason: "worker has a host"}, ipc.ErrExhausted)
	assert.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(fmt.Errorf("%w: given up: %w", ipc.ErrPeerGone, own)))
}

// Code that knows nothing of this package asks an error for its method Timeout.
func TestTimeoutErrorIsATimeout(t *testing.T) {
	err := error(&ipc.TimeoutError{What: "x", After: 1})
	assert.True(t, os.IsTimeout(err))
	var timeout interface{ Timeout() bool }
	require.ErrorAs(t, fmt.Errorf("while starting: %w", err), &timeout)
	assert.True(t, timeout.Timeout())
	assert.False(t, os.IsTimeout(ipc.ErrClosed))
}
