//go:build linux

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// The contract of the worker of these tests. All but the last answer with the metadata of
// their request: its fields are the header, and the trailer in reverse order.
var (
	mirrorIt    = ipc.NewMethod[string, seen]("metadata.mirror")
	mirrorRaw   = ipc.NewMethod[[]byte, []byte]("metadata.raw", ipc.WithCodec(ipc.Raw))
	mirrorPlace = ipc.NewMethod[[]byte, []byte]("metadata.place", ipc.WithCodec(ipc.Raw))
	mirrorHost  = ipc.NewMethod[string, seen]("metadata.host") // the host's mirror, called with the text as metadata
	mirrorTold  = ipc.NewMethod[int, struct{}]("metadata.told")
	mirrorHeard = ipc.NewMethod[int, []told]("metadata.heard") // what mirrorTold was told
)

type seen struct {
	Metadata ipc.Metadata
	Peer     ipc.Peer
	PID      int // of the handler
}

type told struct {
	N        int
	Metadata ipc.Metadata
}

func init() { entries["metadata"] = serveMetadata }

// answerWith sets header and trailer of an answer from the metadata of its request.
func answerWith(ctx context.Context) error {
	md := ipc.MetadataOf(ctx)
	for i := range md {
		last := md[len(md)-1-i]
		if err := errors.Join(ipc.SetHeader(ctx, md[i].Key, md[i].Value), ipc.SetTrailer(ctx, last.Key, last.Value)); err != nil {
			return err
		}
	}
	return nil
}

func mirrored(ctx context.Context, how string) (seen, error) {
	peer, _ := ipc.PeerOf(ctx)
	s := seen{ipc.MetadataOf(ctx), peer, os.Getpid()}
	if err := answerWith(ctx); err != nil {
		return s, err
	}
	switch how {
	case "fail":
		return s, errors.New("as you wish")
	case "panic":
		panic("as you wish")
	case "too large":
		return s, ipc.SetHeader(ctx, "k", strings.Repeat("x", ipc.MaxMetadata))
	case "wrong key":
		return s, ipc.SetTrailer(ctx, "K", "")
	}
	return s, nil
}

func serveMetadata() error {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	s := worker.NewServer()
	worker.Handle(s, mirrorIt, mirrored)
	worker.Handle(s, mirrorRaw, func(ctx context.Context, b []byte) ([]byte, error) { return b, answerWith(ctx) }, worker.WithInline())
	worker.HandleInPlace(s, mirrorPlace, func(ctx context.Context, call worker.InPlace) error {
		// Half of it is set before the claim, and half after.
		md := ipc.MetadataOf(ctx)
		for i, f := range md {
			if i == len(md)/2 {
				buf, err := call.Claim(len(call.Request()))
				if err != nil {
					return err
				}
				copy(buf, call.Request())
			}
			if err := ipc.SetHeader(ctx, f.Key, f.Value); err != nil {
				return err
			}
		}
		if len(md) == 0 {
			call.Reply(call.Request())
		}
		return nil
	})
	worker.Handle(s, mirrorHost, func(ctx context.Context, text string) (seen, error) {
		var header ipc.Metadata
		got, err := mirrorIt.Call(ctx, worker.Host(ctx), "", ipc.WithMetadata("text", text), ipc.WithHeader(&header))
		if err == nil && header.Get("text") != text {
			err = fmt.Errorf("the header of the host is %v", header)
		}
		if err == nil && text == "" { // nothing goes with a call by itself
			got, err = mirrorIt.Call(ctx, worker.Host(ctx), "")
		}
		return got, err
	})
	var mu sync.Mutex
	var all []told
	worker.Handle(s, mirrorTold, func(ctx context.Context, n int) (struct{}, error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, told{n, ipc.MetadataOf(ctx)})
		return struct{}{}, answerWith(ctx)
	})
	worker.Handle(s, mirrorHeard, func(context.Context, int) ([]told, error) {
		mu.Lock()
		defer mu.Unlock()
		return all, nil
	})
	return s.Serve(context.Background())
}

// startMetadata starts that worker.
func (s spawner) startMetadata(t *testing.T, opts ...worker.Option) client {
	t.Helper()
	w, err := s.spawn(t.Context(), worker.Self("metadata"), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

var someMetadata = []string{"tenant", "acme", "trace.id", "\x00\xff\n", "empty", "", "tenant", "again"}

// requireMirrored checks header and trailer of an answer.
func requireMirrored(t *testing.T, want, header, trailer ipc.Metadata) {
	t.Helper()
	require.Equal(t, want, header)
	require.Len(t, trailer, len(want))
	for i := range want {
		require.Equal(t, want[len(want)-1-i], trailer[i])
	}
}

func TestMetadataOfCalls(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		want := ipc.Pairs(someMetadata...)
		header, trailer := ipc.Pairs("old", "one"), ipc.Pairs("old", "one")
		opts := []ipc.CallOption{ipc.WithMetadata(someMetadata[:2]...), ipc.WithMetadata(someMetadata[2:]...), ipc.WithHeader(&header), ipc.WithTrailer(&trailer)}

		got, err := mirrorIt.Call(t.Context(), w, "", opts...)
		require.NoError(t, err)
		require.Equal(t, want, got.Metadata)
		requireMirrored(t, want, header, trailer)

		for range 3 { // also in the background reader
			b, err := mirrorRaw.Call(t.Context(), w, []byte("raw"), opts...)
			require.NoError(t, err)
			require.Equal(t, "raw", string(b))
			requireMirrored(t, want, header, trailer)
			var out []byte
			require.NoError(t, mirrorRaw.CallInto(t.Context(), w, []byte("into"), &out, opts...))
			require.Equal(t, "into", string(out))
			requireMirrored(t, want, header, trailer)
		}

		// Errors have it as well, and what nobody sends is not there.
		for _, how := range []string{"fail", "panic"} {
			_, err = mirrorIt.Call(t.Context(), w, how, opts...)
			require.ErrorContains(t, err, "as you wish")
			requireMirrored(t, want, header, trailer)
		}
		got, err = mirrorIt.Call(t.Context(), w, "", ipc.WithHeader(&header), ipc.WithTrailer(&trailer))
		require.NoError(t, err)
		require.Empty(t, got.Metadata)
		require.Empty(t, header)
		require.Empty(t, trailer)
		got, err = mirrorIt.Call(t.Context(), w, "", ipc.WithMetadata())
		require.NoError(t, err)
		require.Empty(t, got.Metadata)

		// In flight, one by one and together.
		for name, batch := range map[string]batcher{"single": single, "batch": ipc.Batch} {
			const calls = 50
			var headers, trailers [calls]ipc.Metadata
			var futures [calls]*ipc.Future[seen]
			require.NoError(t, batch(t.Context(), w, func(c ipc.Caller) (err error) {
				for i := range futures {
					opts := []ipc.CallOption{ipc.WithHeader(&headers[i]), ipc.WithTrailer(&trailers[i])}
					if i%3 > 0 {
						opts = append(opts, ipc.WithMetadata("n", fmt.Sprint(i)))
					}
					if futures[i], err = mirrorIt.Go(t.Context(), c, "", opts...); err != nil {
						return err
					}
				}
				return nil
			}), name)
			for i, f := range futures {
				got, err := f.Wait(t.Context())
				require.NoError(t, err)
				var want ipc.Metadata
				if i%3 > 0 {
					want = ipc.Pairs("n", fmt.Sprint(i))
				}
				require.Equal(t, want, got.Metadata, "%s %d", name, i)
				requireMirrored(t, want, headers[i], trailers[i])
			}
		}
	})
}

// A handler in place may set metadata before and after it has claimed room.
func TestMetadataInPlace(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		for _, size := range []int{0, 1, 100, 20_000, 300_000} {
			request := filled(size)
			for n := range 5 {
				var header ipc.Metadata
				md := someMetadata[:min(2*n, len(someMetadata))]
				if n == 4 { // much, so that not every driver builds the answer in place
					md = []string{"a", strings.Repeat("x", 8000), "b", strings.Repeat("y", 8000)}
					n = 2
				}
				b, err := mirrorPlace.Call(t.Context(), w, request, ipc.WithMetadata(md...), ipc.WithHeader(&header))
				require.NoError(t, err)
				require.Equal(t, len(request), len(b))
				require.True(t, string(request) == string(b))
				require.Len(t, header, n)
				for i := range header {
					require.Equal(t, ipc.Pairs(md...)[i], header[i])
				}
				// Nothing is left of it.
				_, err = mirrorPlace.Call(t.Context(), w, request, ipc.WithHeader(&header))
				require.NoError(t, err)
				require.Empty(t, header)
			}
		}
	})
}

func TestMetadataOfNotifications(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		const n = 200
		var want []told
		require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			for i := range n {
				var opts []ipc.CallOption
				one := told{N: i}
				if i%7 == 3 || i%7 == 4 { // others are packed
					one.Metadata = ipc.Pairs("n", fmt.Sprint(i))
					opts = append(opts, ipc.WithMetadata("n", fmt.Sprint(i)))
				}
				want = append(want, one)
				if i == n/2 {
					c = w // which is not batched
				}
				if err := mirrorTold.Notify(t.Context(), c, i, opts...); err != nil {
					return err
				}
			}
			return nil
		}))
		var got []told
		eventually(t, "all notifications", func() (ok bool) {
			var err error
			got, err = mirrorHeard.Call(t.Context(), w, 0)
			require.NoError(t, err)
			return len(got) == n
		})
		require.ElementsMatch(t, want, got)
		// Those of the batch are in order, and so are the others.
		last := [2]int{-1, n/2 - 1}
		for _, one := range got {
			i := 0
			if one.N >= n/2 {
				i = 1
			}
			require.Equal(t, last[i]+1, one.N)
			last[i] = one.N
		}
	})
}

func TestMetadataOfCallbacks(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		worker.Handle(w, mirrorIt, mirrored)
		got, err := mirrorHost.Call(t.Context(), w, "hello", ipc.WithMetadata("outer", "1"))
		require.NoError(t, err)
		require.Equal(t, ipc.Pairs("text", "hello"), got.Metadata)
		got, err = mirrorHost.Call(t.Context(), w, "", ipc.WithMetadata("outer", "1"))
		require.NoError(t, err)
		require.Empty(t, got.Metadata, "metadata went on by itself")
	})
}

// A handler can ask who calls, on both sides, over each link.
func TestPeerOf(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		worker.Handle(w, mirrorIt, mirrored)
		check := func() {
			t.Helper()
			got, err := mirrorIt.Call(t.Context(), w, "")
			require.NoError(t, err)
			require.Equal(t, ipc.Peer{PID: os.Getpid(), UID: os.Geteuid(), GID: os.Getegid(), Driver: s.name}, got.Peer)
			require.Equal(t, w.PID(), got.PID)
			got, err = mirrorHost.Call(t.Context(), w, "")
			require.NoError(t, err)
			require.Equal(t, ipc.Peer{PID: w.PID(), UID: os.Geteuid(), GID: os.Getegid(), Driver: s.name}, got.Peer)
			require.Equal(t, os.Getpid(), got.PID)
		}
		check()
		if c, ok := w.(*worker.Client[*socket.Channel]); ok {
			flip(t, c)
			check()
		}
		_, ok := ipc.PeerOf(t.Context())
		require.False(t, ok)
	})
}

// What cannot be sent is an error where it is given, and nothing is sent.
func TestMetadataThatCannotBeSent(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		w := s.startMetadata(t)
		large := strings.Repeat("x", ipc.MaxMetadata)
		for _, c := range []struct {
			key, value string
			code       ipc.Code
			text       string
		}{
			{"Key", "", ipc.CodeInvalidArgument, `key "Key" has byte 0x4b`},
			{"", "", ipc.CodeInvalidArgument, `key "" is empty`},
			{"a b", "", ipc.CodeInvalidArgument, "has byte 0x20"},
			{strings.Repeat("k", 256), "", ipc.CodeInvalidArgument, "has 256 bytes"},
			{"k", large, ipc.CodeResourceExhausted, "largest allowed 16384"},
		} {
			opt := ipc.WithMetadata("good", "one", c.key, c.value)
			check := func(err error) {
				t.Helper()
				var e *ipc.Error
				require.ErrorAs(t, err, &e)
				require.False(t, e.Remote())
				require.Equal(t, c.code, e.Code)
				require.ErrorContains(t, err, c.text)
			}
			_, err := mirrorIt.Call(t.Context(), w, "", opt)
			check(err)
			_, err = mirrorIt.Go(t.Context(), w, "", opt)
			check(err)
			check(mirrorTold.Notify(t.Context(), w, 1, opt))
			err = ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
				_, err := mirrorIt.Go(t.Context(), c, "", opt)
				check(err)
				check(mirrorTold.Notify(t.Context(), c, 1, opt))
				return nil
			})
			require.NoError(t, err)
		}
		heard, err := mirrorHeard.Call(t.Context(), w, 0)
		require.NoError(t, err)
		require.Empty(t, heard)

		// Handlers find out as well.
		for how, text := range map[string]string{"too large": "largest allowed", "wrong key": "has byte 0x4b"} {
			var header ipc.Metadata
			_, err = mirrorIt.Call(t.Context(), w, how, ipc.WithMetadata("a", "b"), ipc.WithHeader(&header))
			require.ErrorContains(t, err, text)
			require.Equal(t, ipc.Pairs("a", "b"), header, "what was set before")
		}
		err = ipc.SetHeader(t.Context(), "k", "v")
		require.ErrorContains(t, err, "not that of a handler")
		require.Equal(t, ipc.CodeFailedPrecondition, ipc.CodeOf(err))
		require.Panics(t, func() { ipc.WithMetadata(strings.Fields("k")...) })
		require.Panics(t, func() { _ = ipc.SetTrailer(t.Context(), strings.Fields("k")...) })
		require.Panics(t, func() { ipc.WithHeader(nil) })
		require.Panics(t, func() { ipc.WithTrailer(nil) })
		require.Empty(t, ipc.MetadataOf(t.Context()))
	})
}

// The most metadata that there may be crosses, and a message with it counts as a whole.
func TestMetadataOfTheLargestSize(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		most := strings.Repeat("x", ipc.MaxMetadata-33)
		w := s.startMetadata(t)
		var header, trailer ipc.Metadata
		opts := []ipc.CallOption{ipc.WithMetadata("k", most), ipc.WithHeader(&header), ipc.WithTrailer(&trailer)}
		for range 20 {
			_, err := mirrorRaw.Call(t.Context(), w, make([]byte, 5000), opts...)
			require.NoError(t, err)
			requireMirrored(t, ipc.Pairs("k", most), header, trailer)
		}
		// Windows count it, or very many of these would take much memory.
		w = s.startMetadata(t, worker.WithWindow(64<<10))
		for range 100 {
			_, err := mirrorRaw.Call(t.Context(), w, nil, opts...)
			require.NoError(t, err)
			require.NoError(t, mirrorTold.Notify(t.Context(), w, 1, opts[0]))
		}

		w = s.startMetadata(t, worker.WithMaxMessage(24<<10))
		_, err := mirrorRaw.Call(t.Context(), w, make([]byte, 20<<10), opts...)
		var tooLarge *ipc.SizeError
		require.ErrorAs(t, err, &tooLarge)
		_, err = mirrorRaw.Call(t.Context(), w, nil, opts...)
		require.ErrorContains(t, err, "the response cannot be sent", "header and trailer are more than 24 KiB")
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
		_, err = mirrorRaw.Call(t.Context(), w, nil)
		require.NoError(t, err)
	})
}

func TestMetadataInPools(t *testing.T) {
	p, err := pool.New(t.Context(), 2, worker.Self("metadata"), socket.Driver{})
	require.NoError(t, err)
	defer p.Close()
	var header, trailer ipc.Metadata
	for _, c := range []ipc.Caller{p, p.For("key")} {
		got, err := mirrorIt.Call(t.Context(), c, "", ipc.WithMetadata("a", "b"), ipc.WithHeader(&header), ipc.WithTrailer(&trailer))
		require.NoError(t, err)
		require.Equal(t, ipc.Pairs("a", "b"), got.Metadata)
		requireMirrored(t, ipc.Pairs("a", "b"), header, trailer)
	}
}
