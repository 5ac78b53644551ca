package natsipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// counting asks for the numbers below N. After them the handler ends as End says.
type counting struct {
	N   int
	End string
}

// The streams of the tests.
var (
	numbers   = ipc.NewServerStream[counting, int]("test.numbers")
	sum       = ipc.NewClientStream[int, int]("test.sum") // up to the first one below 0
	doubles   = ipc.NewBidiStream[int, int]("test.doubles")
	echoes    = ipc.NewBidiStream[[]byte, []byte]("test.echoes", ipc.WithCodec(ipc.Raw))
	outflow   = ipc.NewServerStream[[]byte, []byte]("test.outflow", ipc.WithCodec(ipc.Raw)) // without an end
	stuck     = ipc.NewBidiStream[[]byte, []byte]("test.stuck", ipc.WithCodec(ipc.Raw))     // reads nothing until its context ends
	toldBack  = ipc.NewServerStream[int, string]("test.told_back")                          // answers with the metadata of its request
	halfway   = ipc.NewBidiStream[int, int]("test.halfway")                                 // sends three, closes its side, and has the sum of what came as its trailer; below 0 it fails
	noStreams = ipc.NewBidiStream[int, int]("test.no_stream")
)

func handleStreams(r worker.Registrar, b *blocked) {
	handleBuffers(r)
	worker.HandleServerStream(r, numbers, func(ctx context.Context, req counting, out *ipc.Sender[int]) error {
		for i := range req.N {
			if err := out.Send(ctx, i); err != nil {
				return err
			}
		}
		switch req.End {
		case "":
			return nil
		case "code":
			return &ipc.Error{Code: ipc.CodeNotFound, Message: "no such thing", Details: map[string]string{"thing": "x"}}
		case "die":
			if err := out.Flush(ctx); err != nil {
				return err
			}
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				return err
			}
			select {}
		case "panic":
			panic("out of cheese")
		case "block":
			b.began <- "numbers"
			<-ctx.Done()
			b.ended <- ctx.Err()
			return ctx.Err()
		}
		return fmt.Errorf("%s: %w", req.End, errSentinel)
	})
	worker.HandleClientStream(r, sum, func(ctx context.Context, in *ipc.Receiver[int]) (sum int, err error) {
		for n, err := range in.All(ctx) {
			if err != nil {
				return 0, err
			}
			if sum += n; n < 0 {
				return sum, nil
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
	worker.HandleBidiStream(r, halfway, func(ctx context.Context, in *ipc.Receiver[int], out *ipc.Sender[int]) error {
		for i := range 3 {
			if err := out.Send(ctx, i); err != nil {
				return err
			}
		}
		if err := out.CloseSend(ctx); err != nil {
			return err
		}
		sum := 0
		for n, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			sum += n
		}
		if err := ipc.SetTrailer(ctx, "sum", fmt.Sprint(sum)); err != nil {
			return err
		}
		if sum < 0 {
			return fmt.Errorf("%d: %w", sum, errSentinel)
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
	worker.HandleServerStream(r, outflow, func(ctx context.Context, item []byte, out *ipc.Sender[[]byte]) error {
		own := append([]byte(nil), item...)
		for {
			if err := out.Send(ctx, own); err != nil {
				b.ended <- ctx.Err()
				return err
			}
		}
	})
	worker.HandleBidiStream(r, stuck, func(ctx context.Context, _ *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		if err := errors.Join(out.Send(ctx, []byte("here")), out.Flush(ctx)); err != nil {
			return err
		}
		b.began <- "stuck"
		<-ctx.Done()
		b.ended <- ctx.Err()
		return ctx.Err()
	})
	worker.HandleServerStream(r, toldBack, func(ctx context.Context, n int, out *ipc.Sender[string]) error {
		if err := ipc.SetHeader(ctx, "first", "1"); err != nil {
			return err
		}
		for range n {
			if err := out.Send(ctx, ipc.MetadataOf(ctx).Get("who")); err != nil {
				return err
			}
		}
		if err := errors.Join(ipc.SetHeader(ctx, "late", "2"), ipc.SetTrailer(ctx, "last", strings.Repeat("3", 10_000))); err != nil {
			return err
		}
		if n == 0 {
			return errSentinel
		}
		return nil
	})
}

// collect returns what a stream of answers gives, and how it ends.
func collect[T any](next func(func(T, error) bool)) (all []T, err error) {
	for item, failed := range next {
		if failed != nil {
			err = failed
			break
		}
		all = append(all, item)
	}
	return all, err
}

// streamCases are what streams do, each of which has the same outcome wherever the handlers are.
func streamCases() map[string]func(ctx context.Context, c ipc.Caller) (any, error) {
	cases := map[string]func(ctx context.Context, c ipc.Caller) (any, error){
		"early end": func(ctx context.Context, c ipc.Caller) (any, error) {
			up, err := sum.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			for err == nil {
				err = up.Send(ctx, -1)
			}
			if err != io.EOF {
				return nil, err
			}
			return up.CloseAndReceive(ctx)
		},
		"back and forth": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := doubles.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			defer st.Close()
			total := 0
			for i := range 200 {
				if err := st.Send(ctx, i); err != nil {
					return nil, err
				}
				got, err := st.Receive(ctx)
				if err != nil {
					return nil, err
				}
				total += got
			}
			if err := st.CloseSend(ctx); err != nil {
				return nil, err
			}
			_, err = st.Receive(ctx)
			return total, err
		},
		"no handler": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := noStreams.Open(ctx, c)
			if err == nil {
				_, err = st.Receive(ctx)
			}
			return nil, err
		},
		"items are not kept back": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := numbers.Open(ctx, c, counting{N: 3, End: "block"})
			if err != nil {
				return nil, err
			}
			defer st.Close()
			total := 0
			for range 3 {
				n, err := st.Receive(ctx)
				if err != nil {
					return nil, err
				}
				total += n
			}
			return total, nil
		},
		"closed": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := stuck.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			st.Close()
			_, err = st.Receive(ctx)
			return nil, err
		},
		"timeout": func(ctx context.Context, c ipc.Caller) (any, error) {
			_, err := collect(numbers.Stream(ctx, c, counting{N: 3, End: "block"}, ipc.WithTimeout(50*time.Millisecond)))
			return nil, err // how many have come is a matter of time
		},
		"deadline": func(ctx context.Context, c ipc.Caller) (any, error) {
			own, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			st, err := stuck.Open(own, c)
			for err == nil {
				_, err = st.Receive(ctx)
			}
			return nil, err
		},
		"canceled before": func(ctx context.Context, c ipc.Caller) (any, error) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return collect(numbers.Stream(ctx, c, counting{}))
		},
		"large metadata": func(ctx context.Context, c ipc.Caller) (any, error) {
			return collect(numbers.Stream(ctx, c, counting{}, ipc.WithMetadata("k", strings.Repeat("x", ipc.MaxMetadata))))
		},
		"large first item": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := outflow.Open(ctx, c, bytes.Repeat([]byte("x"), 200_000))
			if err != nil {
				return nil, err
			}
			defer st.Close()
			b, err := st.Receive(ctx)
			return len(b), err
		},
		"in place and parts": func(ctx context.Context, c ipc.Caller) (any, error) {
			st, err := echoes.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			defer st.Close()
			b, err := st.Claim(ctx, 10)
			if err != nil {
				return nil, err
			}
			copy(b, "0123456789")
			if err := st.Commit(ctx, 5); err != nil {
				return nil, err
			}
			n, err := st.SendPart(ctx, []byte("part"))
			if err != nil || n != 4 {
				return n, err
			}
			st.Widen(ctx, 1<<20)
			var all []string
			for range 2 {
				b, err := st.Receive(ctx)
				if err != nil {
					return all, err
				}
				all = append(all, string(b))
			}
			return all, nil
		},
	}
	for _, n := range []int{0, 1, 2, 1000, 20_000} {
		cases[fmt.Sprintf("%d answers", n)] = func(ctx context.Context, c ipc.Caller) (any, error) {
			return collect(numbers.Stream(ctx, c, counting{N: n}))
		}
		cases[fmt.Sprintf("%d requests", n)] = func(ctx context.Context, c ipc.Caller) (any, error) {
			up, err := sum.Open(ctx, c)
			if err != nil {
				return nil, err
			}
			for i := range n {
				if err := up.Send(ctx, i); err != nil {
					return nil, err
				}
			}
			return up.CloseAndReceive(ctx)
		}
	}
	for _, end := range []string{"code", "panic", "plain"} {
		cases["fails with "+end] = func(ctx context.Context, c ipc.Caller) (any, error) {
			return collect(numbers.Stream(ctx, c, counting{N: 1000, End: end}))
		}
	}
	for _, n := range []int{1, -1} {
		cases[fmt.Sprintf("the handler closes its side first, %d", n)] = func(ctx context.Context, c ipc.Caller) (any, error) {
			var trailer ipc.Metadata
			st, err := halfway.Open(ctx, c, ipc.WithTrailer(&trailer))
			if err != nil {
				return nil, err
			}
			defer st.Close()
			items, err := collect(st.All(ctx))
			if err != nil || len(trailer) > 0 {
				return nil, fmt.Errorf("%v, with %v: %w", items, trailer, err)
			}
			for i := range 1000 {
				if err := st.Send(ctx, n*i); err != nil {
					return nil, err
				}
			}
			if err := st.CloseSend(ctx); err != nil {
				return nil, err
			}
			err = io.EOF
			for err == io.EOF && len(trailer) == 0 && ctx.Err() == nil {
				_, err = st.Receive(ctx)
				time.Sleep(time.Millisecond)
			}
			return []any{items, trailer}, err
		}
	}
	for _, n := range []int{0, 2} {
		cases[fmt.Sprintf("metadata, %d items", n)] = func(ctx context.Context, c ipc.Caller) (any, error) {
			var header, trailer ipc.Metadata
			items, err := collect(toldBack.Stream(ctx, c, n, ipc.WithMetadata("who", "a b%=\n"), ipc.WithHeader(&header), ipc.WithTrailer(&trailer)))
			return []any{items, header, trailer}, err
		}
	}
	return cases
}

// The same stream gives over NATS what it gives from this process.
func TestStreamsAreAsLocally(t *testing.T) {
	over, _ := start(t)
	s, _ := newServer()
	local, err := worker.Local(s)
	require.NoError(t, err)
	defer local.Close()
	for name, run := range streamCases() {
		t.Run(name, func(t *testing.T) {
			want, wantErr := run(t.Context(), local)
			got, err := run(t.Context(), over)
			require.Equal(t, ipc.CodeOf(wantErr), ipc.CodeOf(err), "%v, want %v", err, wantErr)
			require.Equal(t, want, got)
			for _, sentinel := range []error{io.EOF, errSentinel, context.DeadlineExceeded, context.Canceled, ipc.ErrPeerGone, ipc.ErrClosed} {
				require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(err, sentinel), "%v: %v, want %v", sentinel, err, wantErr)
			}
			var e, wantE *ipc.Error
			require.Equal(t, errors.As(wantErr, &wantE), errors.As(err, &e), "%v, want %v", err, wantErr)
			switch {
			case wantE != nil:
				require.Equal(t, wantE.Message, e.Message)
				require.Equal(t, wantE.Details, e.Details)
				require.Equal(t, wantE.Remote(), e.Remote())
				require.Equal(t, wantE.Stack == "", e.Stack == "")
			case errors.Is(wantErr, context.DeadlineExceeded): // its text has call or stream in it
			case wantErr != nil:
				require.Equal(t, wantErr.Error(), err.Error())
			}
		})
	}
}

// Items of any size cross in both directions at once, also if messages of NATS are small.
func TestStreamOfLargeItems(t *testing.T) {
	c, _ := start(t)
	sizes := []int{0, 1, 4087, 4088, 4089, 8192, 32_000, 65535, 65536, 65537, 300_000, 1 << 20, 3, 5 << 20}
	item := func(i, n int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, n) }
	st, err := echoes.Open(t.Context(), c)
	require.NoError(t, err)
	defer st.Close()
	sent := make(chan error, 1)
	go func() {
		for i, n := range sizes {
			if err := st.Send(t.Context(), item(i, n)); err != nil {
				sent <- err
				return
			}
		}
		sent <- st.CloseSend(t.Context())
	}()
	i := 0
	for b, err := range st.All(t.Context()) {
		require.NoError(t, err)
		require.True(t, bytes.Equal(item(i, sizes[i]), b), "item %d", i)
		i++
	}
	require.Equal(t, len(sizes), i)
	require.NoError(t, within(t, sent))
}

// However a stream is given up, the context of its handler ends, and says why.
func TestStreamIsGivenUp(t *testing.T) {
	for name, want := range map[string]error{"closed": context.Canceled, "canceled": context.Canceled, "timeout": context.DeadlineExceeded, "client closed": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			c, b := start(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var opts []ipc.CallOption
			if name == "timeout" {
				opts = append(opts, ipc.WithTimeout(5*time.Second))
			}
			st, err := stuck.Open(ctx, c, opts...)
			require.NoError(t, err)
			within(t, b.began)
			switch name {
			case "closed":
				st.Close()
			case "canceled":
				cancel()
			case "client closed":
				require.NoError(t, c.Close())
			}
			require.ErrorIs(t, within(t, b.ended), want)
			for err = nil; err == nil; _, err = st.Receive(t.Context()) {
			}
			require.NotErrorIs(t, err, io.EOF)
			require.Error(t, st.Send(t.Context(), nil))
		})
	}
}

// A reader that does not read stops the sender, on both ways, and others go on.
func TestStreamBackPressure(t *testing.T) {
	c, b := start(t)
	up, err := stuck.Open(t.Context(), c)
	require.NoError(t, err)
	within(t, b.began)
	item := make([]byte, 10_000)
	down, err := outflow.Open(t.Context(), c, item)
	require.NoError(t, err)
	var sent int
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := up.Send(ctx, item)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		sent += len(item)
		require.Less(t, sent, 8<<20, "nobody reads, and it is sent all the same")
	}
	got, err := collect(numbers.Stream(t.Context(), c, counting{N: 1000}))
	require.NoError(t, err)
	require.Len(t, got, 1000)
	for range 1000 {
		b, err := down.Receive(t.Context())
		require.NoError(t, err)
		require.Len(t, b, len(item))
	}
	down.Close()
	up.Close()
	for range 2 {
		require.ErrorIs(t, within(t, b.ended), context.Canceled)
	}
}

// What is beyond the bound of a service is refused, and what ends makes room.
func TestStreamsAreBounded(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, b := newServer()
	few := service
	few.Streams = 2
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, few) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for range 2 {
		_, err := stuck.Open(t.Context(), c)
		require.NoError(t, err)
		within(t, b.began)
	}
	_, err := stuck.Open(t.Context(), c)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	_, err = double.Call(t.Context(), c, 1)
	require.NoError(t, err, "calls have their own bound")
	require.NoError(t, c.Close())
	again := natsipc.Caller(nc, "test")
	defer again.Close()
	require.Eventually(t, func() bool {
		_, err := collect(numbers.Stream(t.Context(), again, counting{N: 1}))
		return err == nil
	}, 30*time.Second, time.Millisecond)
}

// Nobody serves: a stream is refused at once.
func TestNobodyServesStreams(t *testing.T) {
	c := natsipc.Caller(natstest.Connect(t, natstest.Start(t, nil)), "test", natsipc.WithHeartbeat(natsipc.MaxHeartbeat))
	defer c.Close()
	_, err := stuck.Open(t.Context(), c)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
	require.NoError(t, c.Close())
	_, err = stuck.Open(t.Context(), c)
	require.ErrorIs(t, err, ipc.ErrClosed)
}

// A service that ends lets streams end within its grace, and ends others with an error that says so.
func TestServiceEndsWithStreams(t *testing.T) {
	for _, grace := range []time.Duration{time.Millisecond, time.Minute} {
		t.Run(grace.String(), func(t *testing.T) {
			srv := natstest.Start(t, nil)
			nc, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
			s, b := newServer()
			short := service
			short.Grace = grace
			stop := serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, there, s, short) })
			c := natsipc.Caller(nc, "test")
			defer c.Close()
			before := there.NumSubscriptions()
			require.NotZero(t, before)
			st, err := doubles.Open(t.Context(), c)
			require.NoError(t, err)
			require.NoError(t, st.Send(t.Context(), 1))
			_, err = st.Receive(t.Context())
			require.NoError(t, err)
			stopped := make(chan error, 1)
			go func() { stopped <- stop() }()
			if grace == time.Minute {
				require.Eventually(t, func() bool { return there.NumSubscriptions() <= before-2 }, 30*time.Second, time.Millisecond)
				require.NoError(t, st.Send(t.Context(), 2))
				got, err := st.Receive(t.Context())
				require.NoError(t, err)
				require.Equal(t, 4, got)
				require.NoError(t, st.CloseSend(t.Context()))
				_, err = st.Receive(t.Context())
				require.Equal(t, io.EOF, err)
			} else {
				_, err = st.Receive(t.Context())
				require.ErrorIs(t, err, ipc.ErrPeerGone)
				require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
			}
			require.NoError(t, within(t, stopped))
			require.Zero(t, there.NumSubscriptions(), "nothing is left")
			_ = b
		})
	}
}

// Interceptors of both sides see streams, and what goes through them.
func TestInterceptorsSeeStreams(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	var mu sync.Mutex
	var seen []string
	over := make(chan struct{}, 10)
	noting := func(side string) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			err := next(ctx)
			if !call.Stream {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s sent %d, received %d, %v", side, call.Method.Name, call.Sent.Count, call.Received.Count, err))
			over <- struct{}{}
			return err
		}
	}
	s := worker.NewServer(worker.WithServerInterceptors(ipc.Interceptor{Handle: noting("handle")}))
	handleStreams(s, nil)
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test", natsipc.WithInterceptors(ipc.Interceptor{Call: noting("call"), Attempt: noting("attempt")}))
	defer c.Close()
	got, err := collect(numbers.Stream(t.Context(), c, counting{N: 5}))
	require.NoError(t, err)
	require.Len(t, got, 5)
	for range 3 {
		within(t, over)
	}
	mu.Lock()
	defer mu.Unlock()
	require.ElementsMatch(t, []string{
		"handle test.numbers sent 5, received 1, <nil>", "attempt test.numbers sent 0, received 5, <nil>", "call test.numbers sent 0, received 5, <nil>",
	}, seen)
}
