package memory

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// A keeper makes its arena when somebody asks for it, once, and closes none that was given.
func TestArenaIsMadeWhenUsed(t *testing.T) {
	var k Keeper
	k.Init(nil, nil)
	require.Nil(t, k.own)
	made := make(chan *ipc.Arena, 8)
	var asking sync.WaitGroup
	for range cap(made) {
		asking.Go(func() { made <- k.Arena() })
	}
	asking.Wait()
	first := k.Arena()
	for range cap(made) {
		require.Same(t, first, <-made)
	}
	k.Close()
	_, err := first.Alloc(t.Context(), 1)
	require.ErrorIs(t, err, ipc.ErrClosed)

	var late Keeper
	late.Init(nil, nil)
	late.Close()
	require.Nil(t, late.own, "nobody has asked for it")
	_, err = late.Arena().Alloc(t.Context(), 1)
	require.ErrorIs(t, err, ipc.ErrClosed)

	given := ipc.NewArena(ipc.ArenaOptions{})
	var with Keeper
	with.Init(given, nil)
	require.Same(t, given, with.Arena())
	with.Close()
	b, err := given.Alloc(t.Context(), 1)
	require.NoError(t, err)
	b.Release()
	require.NoError(t, given.Close())
}

func TestForgottenIsCountedAndLogged(t *testing.T) {
	var none *Forgotten
	none.Tell("buffer", 1)
	var k Keeper
	k.Init(nil, nil)
	k.Forgotten.Tell("buffer", 1)
	require.EqualValues(t, 1, k.Forgotten.Count())
	var out bytes.Buffer
	k.Init(nil, slog.New(slog.NewTextHandler(&out, nil)))
	k.Forgotten.Tell("buffer", 77)
	k.Forgotten.Tell("file", 0)
	require.EqualValues(t, 3, k.Forgotten.Count())
	require.Contains(t, out.String(), "bytes=77")
	require.Contains(t, out.String(), "a received file was forgotten")
}
