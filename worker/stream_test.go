//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// counting asks for the numbers below N. After them the handler fails with Error, if there is one.
type counting struct {
	N     int
	Size  int
	Error string
	Die   bool // in the place of returning
}

var (
	numbers   = ipc.NewServerStream[counting, int]("test.numbers")
	sum       = ipc.NewClientStream[int, int]("test.sum")
	doubles   = ipc.NewBidiStream[int, int]("test.doubles")
	echoes    = ipc.NewBidiStream[[]byte, []byte]("test.echoes", ipc.WithCodec(ipc.Raw))
	noStreams = ipc.NewBidiStream[int, int]("test.no_stream")
)

func handleStreams(r worker.Registrar) {
	worker.HandleServerStream(r, numbers, func(ctx context.Context, req counting, out *ipc.Sender[int]) error {
		for i := range req.N {
			if err := out.Send(ctx, i); err != nil {
				return err
			}
		}
		if req.Die {
			if err := out.Flush(ctx); err != nil {
				return err
			}
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {}
		}
		if req.Error != "" {
			return fmt.Errorf("%s: %w", req.Error, errSentinel)
		}
		return nil
	})
	worker.HandleClientStream(r, sum, func(ctx context.Context, in *ipc.Receiver[int]) (sum int, err error) {
		for n, err := range in.All(ctx) {
			if err != nil {
				return 0, err
			}
			if sum += n; n < 0 {
				return sum, nil // and reads no further
			}
		}
		return sum, nil
	})
	worker.HandleBidiStream(r, doubles, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
		for n, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if err := out.Send(ctx, 2*n); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleBidiStream(r, echoes, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		for b, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if err := out.Send(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestServerStream(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for _, n := range []int{0, 1, 2, 1000, 100_000} {
			next := 0
			for i, err := range numbers.Stream(t.Context(), w, counting{N: n}) {
				require.NoError(t, err)
				require.Equal(t, next, i)
				next++
			}
			require.Equal(t, n, next)
		}
	})
}

func TestServerStreamFails(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		next := 0
		var failed error
		for i, err := range numbers.Stream(t.Context(), w, counting{N: 1000, Error: "no more"}) {
			if failed = err; err == nil {
				require.Equal(t, next, i)
				next++
			}
		}
		require.Equal(t, 1000, next, "what was sent before the error arrives")
		require.ErrorIs(t, failed, errSentinel)
		require.ErrorContains(t, failed, "no more")
		var e *ipc.Error
		require.True(t, errors.As(failed, &e) && e.Remote())
	})
}

func TestServerStreamDies(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		next := 0
		var failed error
		for i, err := range numbers.Stream(t.Context(), w, counting{N: 1000, Die: true}) {
			if failed = err; err == nil {
				require.Equal(t, next, i)
				next++
			}
		}
		require.Equal(t, 1000, next, "what was sent before the death arrives")
		var exit *worker.ExitError
		require.ErrorAs(t, failed, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
	})
}

func TestClientStream(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		for _, n := range []int{0, 1, 1000, 100_000} {
			up, err := sum.Open(t.Context(), w)
			require.NoError(t, err)
			for i := range n {
				require.NoError(t, up.Send(t.Context(), i))
			}
			got, err := up.CloseAndReceive(t.Context())
			require.NoError(t, err)
			require.Equal(t, n*(n-1)/2, got)
		}
	})
}

// A handler that returns before it has read all gives its answer all the same.
func TestClientStreamEndsEarly(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		up, err := sum.Open(t.Context(), w)
		require.NoError(t, err)
		for i := 0; err == nil; i++ {
			err = up.Send(t.Context(), -1)
		}
		require.Equal(t, io.EOF, err)
		got, err := up.CloseAndReceive(t.Context())
		require.NoError(t, err)
		require.Equal(t, -1, got)
	})
}

func TestBidiStream(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		st, err := doubles.Open(t.Context(), w)
		require.NoError(t, err)
		for i := range 1000 { // one after the other
			require.NoError(t, st.Send(t.Context(), i))
			got, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, 2*i, got)
		}
		sent := make(chan error, 1)
		go func() { // at the same time
			for i := range 100_000 {
				if err := st.Send(t.Context(), i); err != nil {
					sent <- err
					return
				}
			}
			sent <- st.CloseSend(t.Context())
		}()
		next := 0
		for got, err := range st.All(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, 2*next, got)
			next++
		}
		require.Equal(t, 100_000, next)
		require.NoError(t, <-sent)
	})
}

func TestStreamOfLargeItems(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		st, err := echoes.Open(t.Context(), w)
		require.NoError(t, err)
		defer st.Close()
		item := func(i, n int) []byte {
			b := make([]byte, n)
			for j := range b {
				b[j] = byte(i + j*7)
			}
			return b
		}
		sizes := []int{0, 1, 4087, 4088, 4089, 8184, 8192, 65535, 65536, 65537, 300_000, 1 << 20, 3, 5 << 20}
		go func() {
			for i, n := range sizes {
				if st.Send(t.Context(), item(i, n)) != nil {
					return
				}
			}
			_ = st.CloseSend(t.Context())
		}()
		i := 0
		for b, err := range st.All(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, item(i, sizes[i]), append([]byte{}, b...))
			i++
		}
		require.Equal(t, len(sizes), i)
	})
}

func TestStreamWithoutHandler(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		st, err := noStreams.Open(t.Context(), w)
		require.NoError(t, err)
		_, err = st.Receive(t.Context())
		require.ErrorContains(t, err, `no handler for method "test.no_stream"`)
		require.Equal(t, ipc.CodeUnimplemented, ipc.CodeOf(err))
	})
}

// toldBack answers with the metadata of its request, and has some of its own.
var toldBack = ipc.NewServerStream[int, string]("test.told_back")

func handleToldBack(r worker.Registrar) {
	worker.HandleServerStream(r, toldBack, func(ctx context.Context, n int, out *ipc.Sender[string]) error {
		if err := ipc.SetHeader(ctx, "first", "1"); err != nil {
			return err
		}
		for range n {
			if err := out.Send(ctx, ipc.MetadataOf(ctx).Get("who")); err != nil {
				return err
			}
		}
		if err := ipc.SetHeader(ctx, "late", "2"); err != nil {
			return err
		}
		if err := ipc.SetTrailer(ctx, "last", "3"); err != nil {
			return err
		}
		if n == 0 {
			return errSentinel
		}
		peer, _ := ipc.PeerOf(ctx)
		return ipc.SetTrailer(ctx, "pid", fmt.Sprint(peer.PID))
	})
}

// The header of a stream comes with its first item, the trailer with its end.
func TestMetadataOfStreams(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		var header, trailer ipc.Metadata
		st, err := toldBack.Open(t.Context(), w, 2, ipc.WithMetadata("who", "me"), ipc.WithHeader(&header), ipc.WithTrailer(&trailer))
		require.NoError(t, err)
		require.Empty(t, header)
		for range 2 {
			got, err := st.Receive(t.Context())
			require.NoError(t, err)
			require.Equal(t, "me", got)
			require.Equal(t, ipc.Pairs("first", "1"), header)
		}
		_, err = st.Receive(t.Context())
		require.Equal(t, io.EOF, err)
		require.Equal(t, ipc.Pairs("first", "1", "late", "2"), header)
		require.Equal(t, ipc.Pairs("last", "3", "pid", fmt.Sprint(os.Getpid())), trailer)

		for range toldBack.Stream(t.Context(), w, 0, ipc.WithHeader(&header), ipc.WithTrailer(&trailer)) {
		}
		require.Equal(t, ipc.Pairs("first", "1", "late", "2"), header, "also with an error")
		require.Equal(t, ipc.Pairs("last", "3"), trailer)
	})
}
