//go:build unix

package worker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

type picture struct {
	Name   string
	Pixels ipc.Buffer
	Rows   []ipc.Buffer
	Named  map[string]ipc.Buffer
}

var (
	bufferEcho   = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("test.buffer_echo", ipc.WithCodec(ipc.Raw))
	pictureEcho  = ipc.NewMethod[picture, picture]("test.picture_echo")
	pictureTurn  = ipc.NewMethod[picture, picture]("test.picture_turn") // made anew, of an arena of the worker's
	bufferStream = ipc.NewBidiStream[ipc.Buffer, ipc.Buffer]("test.buffer_stream", ipc.WithCodec(ipc.Raw))
	pictureList  = ipc.NewServerStream[picture, picture]("test.picture_list") // the request, many times
)

func serveBuffers(s *worker.Server) {
	var arena = ipc.NewArena(ipc.ArenaOptions{})
	worker.Handle(s, bufferEcho, func(_ context.Context, b ipc.Buffer) (ipc.Buffer, error) { return b, nil })
	worker.Handle(s, pictureEcho, func(_ context.Context, p picture) (picture, error) { return p, nil })
	worker.Handle(s, pictureTurn, func(ctx context.Context, p picture) (picture, error) {
		b, err := arena.Alloc(ctx, p.Pixels.Len())
		if err != nil {
			return picture{}, err
		}
		for i, x := range p.Pixels.Bytes() {
			b.Bytes()[b.Len()-1-i] = x
		}
		return picture{Name: p.Name, Pixels: b, Rows: []ipc.Buffer{b, p.Pixels}}, nil
	})
	worker.HandleBidiStream(s, bufferStream, func(ctx context.Context, in *ipc.Receiver[ipc.Buffer], out *ipc.Sender[ipc.Buffer]) error {
		for b, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			err := out.Send(ctx, b)
			b.Release()
			if err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleServerStream(s, pictureList, func(ctx context.Context, p picture, out *ipc.Sender[picture]) error {
		for range 10 {
			if err := out.Send(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// newArena returns an arena that has to have no buffers in the end.
func newArena(t *testing.T, o ipc.ArenaOptions) *ipc.Arena {
	t.Helper()
	a := ipc.NewArena(o)
	t.Cleanup(func() {
		eventually(t, "all buffers are free", func() bool { return a.Stats().Buffers == 0 })
		require.NoError(t, a.Close())
		require.Zero(t, a.Stats().Reserved)
		require.Zero(t, a.Stats().Forgotten)
	})
	return a
}

// filledBuffer returns a buffer whose bytes say which it is.
func filledBuffer(t *testing.T, a *ipc.Arena, n, seed int) ipc.Buffer {
	t.Helper()
	b, err := a.Alloc(t.Context(), n)
	require.NoError(t, err)
	for i := range b.Bytes() {
		b.Bytes()[i] = byte(seed + i*7)
	}
	return b
}

func requireFilled(t *testing.T, b ipc.Buffer, n, seed int) {
	t.Helper()
	require.Equal(t, n, b.Len())
	for i, x := range b.Bytes() {
		if x != byte(seed+i*7) {
			t.Fatalf("byte %d of %d is %d, expected %d", i, n, x, byte(seed+i*7))
		}
	}
}

// Buffers cross in all ways that messages do.
func TestBuffers(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		arena := newArena(t, ipc.ArenaOptions{})
		for seed, n := range []int{1, 8, 64, 1000, 4096, 70_000, 1 << 20, 5 << 20} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				b := filledBuffer(t, arena, n, seed)
				defer b.Release()
				for range 3 {
					got, err := bufferEcho.Call(t.Context(), w, b)
					require.NoError(t, err)
					requireFilled(t, got, n, seed)
					got.Release()
				}
				f, err := bufferEcho.Go(t.Context(), w, b)
				require.NoError(t, err)
				got, err := f.Wait(t.Context())
				require.NoError(t, err)
				requireFilled(t, got, n, seed)
				got.Release()

				p := picture{Name: "p", Pixels: b, Rows: []ipc.Buffer{b.Slice(0, n/2), {}, b.Slice(n/2, n)}, Named: map[string]ipc.Buffer{"all": b}}
				back, err := pictureEcho.Call(t.Context(), w, p)
				require.NoError(t, err)
				requireFilled(t, back.Pixels, n, seed)
				require.Equal(t, back.Pixels, back.Named["all"], "one buffer is one")
				require.True(t, back.Rows[1].IsZero())
				requireFilled(t, back.Rows[0], n/2, seed)
				requireFilled(t, back.Rows[2], n-n/2, seed+n/2*7)
				for _, b := range append(back.Rows, back.Pixels) {
					b.Release()
				}
				turned, err := pictureTurn.Call(t.Context(), w, p)
				require.NoError(t, err)
				requireFilled(t, turned.Rows[1], n, seed)
				for i, x := range turned.Rows[0].Bytes() {
					if x != b.Bytes()[n-1-i] {
						t.Fatal("it is not turned")
					}
				}
				for _, b := range turned.Rows {
					b.Release()
				}

				st, err := bufferStream.Open(t.Context(), w)
				require.NoError(t, err)
				defer st.Close()
				for range 5 {
					require.NoError(t, st.Send(t.Context(), b))
					got, err := st.Receive(t.Context())
					require.NoError(t, err)
					requireFilled(t, got, n, seed)
					got.Release()
				}
				count := 0
				for p, err := range pictureList.Stream(t.Context(), w, p) {
					require.NoError(t, err)
					requireFilled(t, p.Pixels, n, seed)
					for _, b := range append(p.Rows, p.Pixels) {
						b.Release()
					}
					count++
				}
				require.Equal(t, 10, count)
				for _, b := range p.Rows {
					b.Release()
				}
			})
		}
	})
}
