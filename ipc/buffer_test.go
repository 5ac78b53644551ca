package ipc_test

import (
	"context"
	"encoding/json"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

func TestBufferIsOneHolder(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, a.Close()) }()
	b, err := a.Alloc(t.Context(), 100)
	require.NoError(t, err)
	require.Len(t, b.Bytes(), 100)
	copy(b.Bytes(), "hello")
	other := b.Retain()
	middle := b.Slice(1, 4)
	part := middle.Slice(1, 3)
	middle.Release()
	require.NotEqual(t, b, other)
	same := b
	b.Release()
	same.Release() // the same holder
	b.Release()
	require.Equal(t, "hello", string(other.Bytes()[:5]))
	require.Equal(t, "ll", string(part.Bytes()))
	require.Equal(t, 2, cap(part.Bytes()), "what is behind a part is not of it")
	for name, use := range map[string]func(){
		"Bytes": func() { b.Bytes() }, "Len": func() { b.Len() }, "Slice": func() { b.Slice(0, 1) }, "Retain": func() { b.Retain() },
		"Clone": func() { b.Clone() }, "Frozen": func() { b.Frozen() }, "Handle": func() { b.Handle() }, "Backing": func() { b.Backing() },
		"Freeze": func() { _, _ = b.Freeze() },
	} {
		require.Panics(t, use, name)
	}
	require.Panics(t, func() { other.Slice(3, 101) })
	require.Equal(t, 1, a.Stats().Buffers)
	other.Release()
	require.Equal(t, 1, a.Stats().Buffers)
	clone := part.Clone()
	part.Release()
	require.Zero(t, a.Stats().Buffers)
	require.Equal(t, "ll", string(clone))

	// A holder that is used again is another one.
	for range 1000 {
		next, err := a.Alloc(t.Context(), 10)
		require.NoError(t, err)
		b.Release()
		require.Len(t, next.Bytes(), 10)
		next.Release()
	}
}

func TestZeroBuffer(t *testing.T) {
	var b ipc.Buffer
	require.True(t, b.IsZero())
	require.Empty(t, b.Bytes())
	require.True(t, b.Frozen())
	require.Equal(t, ipc.Handle{}, b.Handle())
	require.Equal(t, b, b.Slice(0, 0))
	require.Panics(t, func() { b.Slice(0, 1) })
	b.Release()
	frozen, err := b.Freeze()
	require.NoError(t, err)
	require.Empty(t, frozen.Bytes())
	frozen.Release()
}

func TestFreeze(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, a.Close()) }()
	b, err := a.Alloc(t.Context(), 5000)
	require.NoError(t, err)
	copy(b.Bytes(), "before")
	frozen, err := b.Freeze()
	require.NoError(t, err)
	require.False(t, b.Frozen())
	require.True(t, frozen.Frozen())
	copy(b.Bytes(), "after.")
	b.Release()
	require.Equal(t, "before", string(frozen.Bytes()[:6]))
	part := frozen.Slice(2, 4)
	frozen.Release()
	require.True(t, part.Frozen())
	require.Equal(t, "fo", string(part.Bytes()))
	part.Release()
}

func TestArenaIsFull(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{Limit: 4 << 20})
	defer func() { require.NoError(t, a.Close()) }()
	first, err := a.Alloc(t.Context(), 3<<20)
	require.NoError(t, err)
	_, err = a.Alloc(t.Context(), 5<<20)
	require.ErrorIs(t, err, ipc.ErrExhausted, "which never fits")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = a.Alloc(ctx, 3<<20)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	go func() {
		time.Sleep(time.Millisecond)
		first.Release()
	}()
	second, err := a.Alloc(t.Context(), 3<<20)
	require.NoError(t, err)
	second.Release()
	a.Trim()
	require.Zero(t, a.Stats().Reserved)

	strict := ipc.NewArena(ipc.ArenaOptions{Limit: 4 << 20, NoWait: true})
	first, err = strict.Alloc(t.Context(), 3<<20)
	require.NoError(t, err)
	_, err = strict.Alloc(t.Context(), 3<<20)
	require.ErrorIs(t, err, ipc.ErrExhausted)
	first.Release()
	require.NoError(t, strict.Close())
	_, err = strict.Alloc(t.Context(), 1)
	require.ErrorIs(t, err, ipc.ErrClosed)
}

// A buffer that nobody refers to any more is released some time, and counted.
func TestForgottenBuffer(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, a.Close()) }()
	func() {
		b, err := a.Alloc(t.Context(), 100)
		require.NoError(t, err)
		copy(b.Bytes(), "x")
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		s := a.Stats()
		return s.Forgotten == 1 && s.Buffers == 0
	}, 30*time.Second, time.Millisecond)
}

// A holder that was forgotten is told, though others release theirs after that.
func TestForgottenHolder(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, a.Close()) }()
	b, err := a.Alloc(t.Context(), 100)
	require.NoError(t, err)
	func() { _ = b.Retain() }()
	require.Eventually(t, func() bool {
		runtime.GC()
		require.Zero(t, a.Stats().Forgotten, "there is another holder")
		return ipc.HoldersOf(b) == 1
	}, 30*time.Second, time.Millisecond)
	b.Release()
	require.EqualValues(t, 1, a.Stats().Forgotten)
	b, err = a.Alloc(t.Context(), 100)
	require.NoError(t, err)
	b.Release()
	require.EqualValues(t, 1, a.Stats().Forgotten)
	require.Zero(t, a.Stats().Buffers)
}

func TestMethodsWithBuffers(t *testing.T) {
	type hidden struct {
		N uint64
		h ipc.Handle
	}
	_ = hidden{}.h
	for name, declare := range map[string]func(){
		"a key":       func() { ipc.NewMethod[map[ipc.Buffer]int, int]("x") },
		"hidden":      func() { ipc.NewMethod[hidden, hidden]("x", ipc.WithCodec(ipc.Fixed)) },
		"Fixed":       func() { ipc.NewMethod[ipc.Buffer, ipc.Buffer]("x", ipc.WithCodec(ipc.Fixed)) },
		"CBOR handle": func() { ipc.NewMethod[ipc.Handle, ipc.Handle]("x") },
	} {
		require.Panics(t, declare, name)
	}
	raw := ipc.NewMethod[ipc.Buffer, ipc.Buffer]("x", ipc.WithCodec(ipc.Raw))
	require.NotEqual(t, raw.Info().ID, ipc.NewMethod[[]byte, []byte]("x", ipc.WithCodec(ipc.Raw)).Info().ID)
	require.NotEqual(t, raw.Info().ID, ipc.NewMethod[ipc.Buffer, []byte]("x", ipc.WithCodec(ipc.Raw)).Info().ID)
}

// What a Buffer is in a message says nothing by itself.
func TestBufferByItself(t *testing.T) {
	a := ipc.NewArena(ipc.ArenaOptions{})
	defer func() { require.NoError(t, a.Close()) }()
	b, err := a.Alloc(t.Context(), 100)
	require.NoError(t, err)
	defer b.Release()
	for _, codec := range []ipc.Codec{ipc.CBOR, ipc.JSON, ipc.Raw} {
		data, err := codec.Append(nil, b)
		require.NoError(t, err)
		var alone ipc.Buffer
		require.NoError(t, codec.Decode(data, &alone))
		require.False(t, alone.IsZero())
		require.Panics(t, func() { alone.Bytes() }, codec.Name())
		alone.Release()
		_, err = ipc.Attach(alone)
		require.Error(t, err, codec.Name())
		require.Error(t, ipc.Resolve(&alone, nil), codec.Name())
		require.Error(t, codec.Decode(data[:len(data)-2], &alone))
	}
	_, err = ipc.CBOR.Append(nil, map[string]any{"b": b})
	require.ErrorContains(t, err, "in an any")
	require.Error(t, json.Unmarshal([]byte(`17`), new(ipc.Buffer)))
}
