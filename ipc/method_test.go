package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

type countRequest struct{ Text string }
type countResult struct{ Words int }

// encoded is what a caller gets.
type encoded struct {
	ipc.Invocation
	Request, Response []byte
}

// fakeCaller stands for a client: it answers in the same goroutine.
type fakeCaller struct {
	codec  ipc.Codec
	answer func(encoded) ([]byte, error)
}

func (c *fakeCaller) Codec() ipc.Codec { return c.codec }
func (c *fakeCaller) Invoke(_ context.Context, call *ipc.Invocation, request, memory []byte) ([]byte, error) {
	return c.answer(encoded{*call, request, memory})
}

// picky is a codec that says which types it carries, and has a bound.
type picky struct {
	ipc.Codec
	bound int
}

func (picky) Name() string { return "picky" }
func (picky) CheckType(t reflect.Type) error {
	if t.Kind() != reflect.Int {
		return fmt.Errorf("not %v", t)
	}
	return nil
}
func (p picky) Bounded(bytes int) ipc.Codec { return picky{p.Codec, bytes} }

// A method asks its codec about both types, and tells it its bound.
func TestCodecsThatAreAsked(t *testing.T) {
	c := picky{Codec: ipc.JSON}
	m := ipc.NewMethod[int, int]("m", ipc.WithCodec(c))
	require.Equal(t, c, m.Codec(ipc.CBOR))
	bounded := ipc.NewMethod[int, int]("m", ipc.WithMaxDecoded(7), ipc.WithCodec(c))
	require.Equal(t, picky{ipc.JSON, 7}, bounded.Codec(ipc.CBOR))
	require.Equal(t, m.Info(), bounded.Info())
	require.PanicsWithValue(t, `tandem: method "m": not string`, func() { ipc.NewMethod[string, int]("m", ipc.WithCodec(c)) })
	require.PanicsWithValue(t, `tandem: method "m": not []int`, func() { ipc.NewMethod[int, []int]("m", ipc.WithCodec(c)) })
}

// The ids are a promise to other versions: host and worker are built apart.
func TestMethodID(t *testing.T) {
	plain := ipc.NewMethod[countRequest, countResult]("text.count")
	assert.Equal(t, ipc.MethodInfo{Name: "text.count", ID: 0x9249cc2010448a5f}, plain.Info())
	assert.Equal(t, plain.Info(), ipc.NewMethod[int, string]("text.count", ipc.WithTimeout(time.Second)).Info(), "types and limits do not matter")
	withCBOR := ipc.NewMethod[countRequest, countResult]("text.count", ipc.WithCodec(ipc.CBOR))
	assert.Equal(t, uint64(0x339723571c458505), withCBOR.Info().ID)
	seen := map[uint64]bool{plain.Info().ID: true, withCBOR.Info().ID: true}
	for _, m := range []ipc.MethodInfo{
		ipc.NewMethod[countRequest, countResult]("text.count", ipc.WithCodec(ipc.JSON)).Info(),
		ipc.NewMethod[[]byte, []byte]("text.count", ipc.WithCodec(ipc.Raw)).Info(),
		ipc.NewMethod[countRequest, countResult]("text.Count").Info(),
	} {
		assert.False(t, seen[m.ID], "%v", m)
		seen[m.ID] = true
	}
}

func TestNewMethodPanics(t *testing.T) {
	assert.PanicsWithValue(t, "tandem: method without a name", func() { ipc.NewMethod[int, int]("") })
	for _, declare := range []func(){
		func() { ipc.NewMethod[string, []byte]("m", ipc.WithCodec(ipc.Raw)) },
		func() { ipc.NewMethod[[]byte, string]("m", ipc.WithCodec(ipc.Raw)) },
	} {
		assert.Panics(t, declare)
	}
	assert.NotPanics(t, func() { ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw)) })
	assert.PanicsWithValue(t, "tandem: negative timeout -1ns", func() { ipc.WithTimeout(-1) })
	assert.PanicsWithValue(t, "tandem: WithCodec(nil)", func() { ipc.WithCodec(nil) })
}

func TestMethodCodec(t *testing.T) {
	assert.Equal(t, ipc.JSON, ipc.NewMethod[int, int]("m").Codec(ipc.JSON))
	assert.Equal(t, ipc.CBOR, ipc.NewMethod[int, int]("m", ipc.WithCodec(ipc.CBOR)).Codec(ipc.JSON))
}

func TestLimitPrecedence(t *testing.T) {
	var got time.Duration
	c := &fakeCaller{ipc.CBOR, func(call encoded) ([]byte, error) {
		got = call.Timeout
		return ipc.CBOR.Append(nil, 1)
	}}
	plain := ipc.NewMethod[int, int]("m")
	limited := ipc.NewMethod[int, int]("m", ipc.WithTimeout(time.Minute))
	unlimited := ipc.NewMethod[int, int]("m", ipc.WithTimeout(0))
	for _, x := range []struct {
		name   string
		method *ipc.Method[int, int]
		opts   []ipc.CallOption
		want   time.Duration
	}{
		{"nothing said: the client's", plain, nil, ipc.DefaultTimeout},
		{"the method's", limited, nil, time.Minute},
		{"the method has none", unlimited, nil, 0},
		{"the call's goes first", limited, []ipc.CallOption{ipc.WithTimeout(time.Second)}, time.Second},
		{"the call has none", limited, []ipc.CallOption{ipc.WithTimeout(0)}, 0},
		{"the call's, where the method has none", unlimited, []ipc.CallOption{ipc.WithTimeout(time.Second)}, time.Second},
		{"the last of two", plain, []ipc.CallOption{ipc.WithTimeout(1), ipc.WithTimeout(2)}, 2},
	} {
		_, err := x.method.Call(t.Context(), c, 0, x.opts...)
		require.NoError(t, err)
		assert.Equal(t, x.want, got, x.name)
	}
}

func TestCall(t *testing.T) {
	m := ipc.NewMethod[countRequest, countResult]("text.count")
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON} {
		t.Run(codec.Name(), func(t *testing.T) {
			for _, own := range []bool{false, true} { // whose memory the response is in
				c := &fakeCaller{codec, func(call encoded) ([]byte, error) {
					assert.Equal(t, m.Info(), call.Method)
					var req countRequest
					assert.NoError(t, codec.Decode(call.Request, &req))
					dst := call.Response
					if own {
						dst = nil
					}
					return codec.Append(dst, countResult{Words: len(req.Text)})
				}}
				var wg sync.WaitGroup
				for n := range 8 {
					wg.Go(func() {
						for range 200 {
							res, err := m.Call(t.Context(), c, countRequest{string(make([]byte, n*100))})
							assert.NoError(t, err)
							assert.Equal(t, n*100, res.Words)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

func TestCallWithCodecOfMethod(t *testing.T) {
	m := ipc.NewMethod[countRequest, countResult]("text.count", ipc.WithCodec(ipc.JSON))
	c := &fakeCaller{ipc.CBOR, func(call encoded) ([]byte, error) {
		assert.JSONEq(t, `{"Text":"x"}`, string(call.Request))
		return []byte(`{"Words":3}`), nil
	}}
	res, err := m.Call(t.Context(), c, countRequest{"x"})
	require.NoError(t, err)
	assert.Equal(t, 3, res.Words)
}

func TestCallRaw(t *testing.T) {
	answer := []byte("answer")
	for name, m := range map[string]*ipc.Method[[]byte, []byte]{
		"of the link":   ipc.NewMethod[[]byte, []byte]("m"),
		"of the method": ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw)),
	} {
		request := []byte("request")
		c := &fakeCaller{ipc.Raw, func(call encoded) ([]byte, error) {
			assert.Same(t, &request[0], &call.Request[0], "raw requests are not copied")
			return answer, nil
		}}
		res, err := m.Call(t.Context(), c, request)
		require.NoError(t, err)
		assert.Same(t, &answer[0], &res[0], "nor are raw responses")
		_ = name
	}

	c := &fakeCaller{ipc.Raw, func(encoded) ([]byte, error) { return nil, nil }}
	res, err := ipc.NewMethod[[]byte, []byte]("m").Call(t.Context(), c, nil)
	require.NoError(t, err)
	assert.Empty(t, res)
}

// A named type of bytes has to be treated like any other type.
func TestCallRawOfOtherType(t *testing.T) {
	type text []byte
	c := &fakeCaller{ipc.Raw, func(encoded) ([]byte, error) { t.Error("called"); return nil, nil }}
	_, err := ipc.NewMethod[text, []byte]("m").Call(t.Context(), c, text("x"))
	assert.Equal(t, ipc.CodeInvalidArgument, ipc.CodeOf(err))
	assert.ErrorContains(t, err, "codec raw carries []byte")
}

func TestCallFails(t *testing.T) {
	m := ipc.NewMethod[countRequest, countResult]("text.count")
	broken := errors.New("broken")
	c := &fakeCaller{ipc.CBOR, func(encoded) ([]byte, error) { return nil, broken }}
	res, err := m.Call(t.Context(), c, countRequest{})
	assert.Same(t, broken, err, "errors of the client are not changed")
	assert.Zero(t, res)

	c.answer = func(encoded) ([]byte, error) { return []byte{0xff}, nil }
	_, err = m.Call(t.Context(), c, countRequest{})
	assert.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
	assert.ErrorContains(t, err, `decode the response of "text.count"`)

	c.answer = func(encoded) ([]byte, error) { t.Error("called"); return nil, nil }
	_, err = ipc.NewMethod[any, int]("m").Call(t.Context(), c, make(chan int))
	var e *ipc.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, ipc.CodeInvalidArgument, e.Code)
	assert.False(t, e.Remote())
	assert.ErrorContains(t, err, `encode the request of "m"`)
}

// What Call returns must stay when the buffers of the call are used again.
func TestCallResultIsNotInPooledMemory(t *testing.T) {
	type blob struct {
		B []byte
		S string
	}
	m := ipc.NewMethod[blob, blob]("blob")
	c := &fakeCaller{ipc.CBOR, func(call encoded) ([]byte, error) {
		return append(call.Response, call.Request...), nil
	}}
	first, err := m.Call(t.Context(), c, blob{bytes.Repeat([]byte("a"), 100), "aaaa"})
	require.NoError(t, err)
	for range 50 {
		_, err := m.Call(t.Context(), c, blob{bytes.Repeat([]byte("b"), 100), "bbbb"})
		require.NoError(t, err)
	}
	assert.Equal(t, blob{bytes.Repeat([]byte("a"), 100), "aaaa"}, first)
}

type keptCaller struct{ answer []byte }

func (c *keptCaller) Codec() ipc.Codec { return ipc.Raw }
func (c *keptCaller) Invoke(context.Context, *ipc.Invocation, []byte, []byte) ([]byte, error) {
	return c.answer, nil
}

func TestRawCallAllocatesNothing(t *testing.T) {
	m := ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw), ipc.WithTimeout(time.Second))
	var c ipc.Caller = &keptCaller{make([]byte, 64)}
	ctx, request := t.Context(), make([]byte, 64)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := m.Call(ctx, c, request); err != nil {
			t.Error(err)
		}
	}))
}

// keeper is a caller that keeps its last invocation.
type keeper struct{ last ipc.Invocation }

func (k *keeper) Codec() ipc.Codec { return ipc.CBOR }

func (k *keeper) Invoke(_ context.Context, call *ipc.Invocation, _, _ []byte) ([]byte, error) {
	k.last = *call
	return nil, ipc.ErrClosed
}

func TestAttempts(t *testing.T) {
	var k keeper
	once := ipc.NewMethod[int, int]("test.once")
	often := ipc.NewMethod[int, int]("test.often", ipc.WithIdempotent(), ipc.WithAttempts(3))
	_, _ = once.Call(t.Context(), &k, 1)
	require.Zero(t, k.last.Attempts)
	require.False(t, k.last.Idempotent)
	_, _ = often.Call(t.Context(), &k, 1)
	require.Equal(t, 3, k.last.Attempts)
	require.True(t, k.last.Idempotent)
	_ = often.Notify(t.Context(), &k, 1, ipc.WithAttempts(5), ipc.WithTimeout(time.Second))
	require.Equal(t, 5, k.last.Attempts)
	require.Equal(t, time.Second, k.last.Timeout)
	require.True(t, k.last.Idempotent)
	require.Panics(t, func() { ipc.WithAttempts(0) })
}

func TestNilsPanic(t *testing.T) {
	m := ipc.NewMethod[int, int]("nils")
	var none context.Context // as a variable that nobody has set
	for name, call := range map[string]func(context.Context, ipc.Caller){
		"Call":     func(ctx context.Context, c ipc.Caller) { _, _ = m.Call(ctx, c, 1) },
		"CallInto": func(ctx context.Context, c ipc.Caller) { _ = m.CallInto(ctx, c, 1, new(int)) },
		"Notify":   func(ctx context.Context, c ipc.Caller) { _ = m.Notify(ctx, c, 1) },
		"Go":       func(ctx context.Context, c ipc.Caller) { _, _ = m.Go(ctx, c, 1) },
	} {
		require.PanicsWithValue(t, `tandem: call of "nils" with a nil caller`, func() { call(t.Context(), nil) }, name)
		require.PanicsWithValue(t, `tandem: call of "nils" with a nil context`, func() { call(none, nil) }, name)
	}
}
