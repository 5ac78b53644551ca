package natsipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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

var (
	heedless = ipc.NewMethod[[]byte, []byte]("test.stuck", ipc.WithCodec(ipc.Raw)) // returns when a test says so, whatever its context says
	leave    = ipc.NewMethod[[]byte, []byte]("test.leave", ipc.WithCodec(ipc.Raw)) // ends its goroutine
	brief    = ipc.NewMethod[int, int]("test.brief")                               // takes so many microseconds, and tells of its context
)

// A service ends though a handler does not heed its context: when the grace is over its caller is told, and what the handler
// returns later is dropped. So is one whose connection is closed.
func TestServiceEndsWithAStuckHandler(t *testing.T) {
	for _, size := range []int{10, 2 << 20} { // which travels as a stream
		for _, how := range []string{"context", "connection"} {
			srv := natstest.Start(t, nil)
			nc, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
			s, _ := newServer()
			began, release := make(chan struct{}), make(chan struct{})
			worker.Handle(s, heedless, func(_ context.Context, b []byte) ([]byte, error) {
				close(began)
				<-release
				return b, nil
			})
			hasty := service
			hasty.Grace = time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- natsipc.Serve(ctx, there, s, hasty) }()
			awaitService(t, nc)
			beat := time.Second
			if how == "context" {
				beat = natsipc.MaxHeartbeat // the caller is told, and need not find out
			}
			c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(beat))
			failed := make(chan error, 1)
			go func() {
				_, err := heedless.Call(context.Background(), c, make([]byte, size), ipc.WithTimeout(0))
				failed <- err
			}()
			<-began
			if how == "context" {
				cancel()
				require.NoError(t, within(t, ended))
			} else {
				there.Close()
				require.ErrorIs(t, within(t, ended), ipc.ErrDisconnected)
			}
			require.ErrorIs(t, within(t, failed), ipc.ErrPeerGone)
			cancel()
			close(release)
			require.NoError(t, c.Close())
		}
	}
}

// The caller of a handler that ends its goroutine gets an error, and the service goes on.
func TestHandlerEndsItsGoroutine(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	worker.Handle(s, leave, func(context.Context, []byte) ([]byte, error) { runtime.Goexit(); return nil, nil })
	few := service
	few.Concurrency, few.Streams = 2, 4
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, few) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	for range 5 { // more than run at once, in all
		for _, size := range []int{10, 2 << 20} {
			_, err := leave.Call(t.Context(), c, make([]byte, size))
			require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, "Goexit")
			require.Eventually(t, func() bool { // the place is left after that
				_, err = double.Call(t.Context(), c, 1)
				return err == nil
			}, 30*time.Second, time.Millisecond)
		}
	}
}

// The end of one call, by its caller, its timeout or its result, never ends another one that the same goroutine serves.
func TestContextsAreOfOneCall(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	worker.Handle(s, brief, func(ctx context.Context, us int) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, ipc.Errorf(ipc.CodeDataLoss, "ended before it began: %w", err)
		}
		wait := time.NewTimer(time.Duration(us) * time.Microsecond)
		defer wait.Stop()
		select {
		case <-wait.C:
			return us, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test", natsipc.WithHeartbeat(time.Second))
	defer c.Close()
	var callers sync.WaitGroup
	for range 30 {
		callers.Go(func() {
			for range 40 { // heartbeats, by which calls can be given up, begin after 20 ms
				us := rand.IntN(30_000)
				ctx, cancel := context.WithCancel(t.Context())
				gives := rand.IntN(2) == 0
				if gives {
					time.AfterFunc(time.Duration(us+rand.IntN(2000)-1000)*time.Microsecond, cancel)
				}
				got, err := brief.Call(ctx, c, us)
				cancel()
				switch {
				case err == nil && got == us, gives && err == context.Canceled:
				default:
					t.Errorf("%d us, given up: %v: %d, %v", us, gives, got, err)
				}
			}
		})
	}
	callers.Wait()
}

// What a handler keeps of a request and what another call has sent are not the same memory, nor is what a caller gets.
func TestRequestsAreTheHandlers(t *testing.T) {
	nc := natstest.Connect(t, natstest.Start(t, nil))
	s, _ := newServer()
	var mu sync.Mutex
	var kept [][]byte
	worker.Handle(s, heedless, func(_ context.Context, b []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, b)
		return kept[rand.IntN(len(kept))], nil
	})
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, service) })
	c := natsipc.Caller(nc, "test")
	defer c.Close()
	uniform := func(b []byte) bool { return len(b) > 0 && len(bytes.Trim(b, string(b[:1]))) == 0 }
	var got [][]byte
	for i := range 200 {
		b, err := heedless.Call(t.Context(), c, bytes.Repeat([]byte{byte(i)}, 1+rand.IntN(1<<rand.IntN(18))))
		require.NoError(t, err)
		got = append(got, b)
		if i%3 == 0 {
			for j := range b {
				b[j] = 0xee // the caller's
			}
		}
	}
	for i := range kept {
		require.True(t, uniform(kept[i]) && kept[i][0] == byte(i), "%d", i)
		require.True(t, uniform(got[i]), "%d", i)
	}
}

// A caller that was told that its service has ended gets no second answer when the handler returns.
func TestStuckHandlerAnswersNobody(t *testing.T) {
	srv := natstest.Start(t, nil)
	nc, there := natstest.Connect(t, srv), natstest.Connect(t, srv)
	s, _ := newServer()
	began, release, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	worker.Handle(s, heedless, func(_ context.Context, b []byte) ([]byte, error) {
		defer close(over)
		close(began)
		<-release
		return b, nil
	})
	hasty := service
	hasty.Grace = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- natsipc.Serve(ctx, there, s, hasty) }()
	awaitService(t, nc)
	answers := make(chan *nats.Msg, 1000)
	inbox := nc.NewInbox()
	_, err := nc.ChanSubscribe(inbox, answers)
	require.NoError(t, err)
	require.NoError(t, nc.PublishRequest("tandem.test.call.test.stuck", inbox, fmt.Appendf(nil, "1 %x raw le 0 60000000000 0 -\nx", heedless.Info().ID)))
	<-began
	cancel()
	require.NoError(t, within(t, ended))
	require.Eventually(t, func() bool { return within(t, answers).Header.Get("Tandem-Answer") == "gone" }, 30*time.Second, time.Microsecond)
	close(release)
	<-over
	time.Sleep(20 * time.Millisecond) // in which an answer would be sent
	require.NoError(t, there.Flush())
	require.NoError(t, nc.Flush())
	require.Empty(t, answers)
}

// A large response whose caller does not read it, and that is not over in time, ends the call and nothing else.
func TestLargeResponseIsLate(t *testing.T) {
	srv, client := largeService(t, service)
	nc := natstest.Connect(t, srv)
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	require.NoError(t, err)
	request, err := ipc.Marshal(ipc.CBOR, nil, 100*payload)
	require.NoError(t, err)
	require.NoError(t, nc.PublishRequest("tandem.test.call.test.blow", inbox.Subject, append(fmt.Appendf(nil, "1 %x cbor le %d 1000000000 0 -\n", blow.Info().ID, 2*time.Second), request...)))
	for {
		m, err := inbox.NextMsg(time.Minute)
		require.NoError(t, err)
		if m.Header.Get("Tandem-Answer") != "large" {
			continue
		}
		frames := make(chan *nats.Msg, 1000)
		to := nc.NewInbox()
		_, err = nc.ChanSubscribe(to, frames)
		require.NoError(t, err)
		require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: m.Reply, Reply: to, Header: nats.Header{"Tandem-Stream": {"65536 -"}}}))
		for !strings.Contains(string(within(t, frames).Data), "\x00\x00") { // until items come
		}
		break
	}
	c := client()
	for i := range 20 { // the ordinary caller
		_, err := blow.Call(t.Context(), c, 40<<20, ipc.WithTimeout(time.Duration(60+15*i)*time.Millisecond))
		var late *ipc.TimeoutError
		require.True(t, err == nil || errors.As(err, &late), "%v", err)
	}
	time.Sleep(2 * time.Second) // the time of the call
	_, err = blow.Call(t.Context(), c, 10)
	require.NoError(t, err)
}
