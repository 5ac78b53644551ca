package natsipc_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/nats/internal/natstest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// blow answers with so many bytes. With metadata "head" its header has as many as that says.
var blow = ipc.NewMethod[int, []byte]("test.blow")

func handleBlow(s *worker.Server) {
	worker.Handle(s, blow, func(ctx context.Context, n int) ([]byte, error) {
		var size int
		if _, err := fmt.Sscan(ipc.MetadataOf(ctx).Get("head"), &size); err == nil {
			if err := ipc.SetHeader(ctx, "head", strings.Repeat("ü", size/2)); err != nil {
				return nil, err
			}
		}
		return bytes.Repeat([]byte{7}, n), nil
	})
}

// payload is what a NATS server of these tests takes in a message.
const payload = 8 << 10

// largeService serves echo and blow by a NATS server that takes small messages.
func largeService(t testing.TB, svc natsipc.Service) (*server.Server, func(opts ...natsipc.Option) *natsipc.Client) {
	t.Helper()
	srv := natstest.Start(t, func(o *server.Options) { o.MaxPayload, o.MaxPending = payload, 64<<20 })
	nc := natstest.Connect(t, srv)
	s, _ := newServer()
	handleBlow(s)
	serve(t, nc, func(ctx context.Context) error { return natsipc.Serve(ctx, nc, s, svc) })
	return srv, func(opts ...natsipc.Option) *natsipc.Client {
		c := natsipc.Caller(natstest.Connect(t, srv), "test", opts...)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
}

// Requests and responses of all sizes cross: those that fit a message of NATS, those that do not, and all about the limit.
func TestLargeCalls(t *testing.T) {
	_, client := largeService(t, service)
	c := client()
	sizes := []int{0, 1, payload / 2, 2*payload - 1, 2 * payload, 10*payload + 1, 1 << 20, 5 << 20}
	for n := payload - 600; n <= payload+20; n++ {
		sizes = append(sizes, n)
	}
	var some sync.WaitGroup
	defer some.Wait()
	places := make(chan struct{}, 8)
	for i, n := range sizes {
		places <- struct{}{}
		some.Go(func() {
			defer func() { <-places }()
			sent := bytes.Repeat([]byte{byte(i), 1, 2}, n/3+1)[:n]
			got, err := echo.Call(t.Context(), c, sent)
			if err != nil || !bytes.Equal(sent, got) {
				t.Errorf("echo of %d bytes: %d bytes, %v", n, len(got), err)
			}
			if got, err = blow.Call(t.Context(), c, n); err != nil || len(got) != n {
				t.Errorf("%d bytes, want %d: %v", len(got), n, err)
			}
		})
	}
	some.Wait()
	require.NoError(t, echo.Notify(t.Context(), c, make([]byte, 3*payload)))

	// Metadata counts, too.
	for _, n := range []int{0, 10, payload - 1000, payload, 3 * payload} {
		for _, head := range []int{0, 1000, payload / 4, payload / 3, payload / 2} {
			var header ipc.Metadata
			got, err := blow.Call(t.Context(), c, n, ipc.WithMetadata("head", fmt.Sprint(head)), ipc.WithHeader(&header))
			require.NoError(t, err, "%d bytes, and %d of header", n, head)
			require.Len(t, got, n)
			require.Len(t, header.Get("head"), head/2*2)
		}
	}
}

// Messages beyond the bounds of both sides fail with what says so, and the next ones do not.
func TestLargeCallsAreBounded(t *testing.T) {
	svc := service
	svc.MaxMessage = 5 * payload
	_, client := largeService(t, svc)
	c, small := client(), client(natsipc.WithMaxMessage(4*payload))
	_, err := echo.Call(t.Context(), c, make([]byte, 6*payload))
	require.Error(t, err)
	require.NotEqual(t, ipc.CodeUnavailable, ipc.CodeOf(err), "%v", err)
	_, err = echo.Call(t.Context(), small, make([]byte, 4*payload+1))
	var size *ipc.SizeError
	require.ErrorAs(t, err, &size)
	_, err = blow.Call(t.Context(), small, 4*payload+100)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	_, err = blow.Call(t.Context(), c, 6*payload)
	require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	for _, c := range []*natsipc.Client{c, small} {
		got, err := echo.Call(t.Context(), c, make([]byte, 3*payload))
		require.NoError(t, err)
		require.Len(t, got, 3*payload)
	}
}

// Large calls end as small ones do: with the handler's error, when their time is over, when they are given up, and when nobody serves.
func TestLargeCallsEnd(t *testing.T) {
	srv, client := largeService(t, service)
	c := client()
	big := strings.Repeat("x", 2*payload)
	_, err := fail.Call(t.Context(), c, big)
	var e *ipc.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Remote())
	_, err = block.Call(t.Context(), c, big, ipc.WithTimeout(50*time.Millisecond))
	var timeout *ipc.TimeoutError
	require.ErrorAs(t, err, &timeout)
	require.Equal(t, 50*time.Millisecond, timeout.After)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = block.Call(ctx, c, big)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = unknown.Call(t.Context(), c, 1, ipc.WithMetadata("k", strings.Repeat("x", payload)))
	require.Error(t, err, "metadata alone is too much for a message")
	nobody := natsipc.Caller(natstest.Connect(t, srv), "nobody")
	defer nobody.Close()
	_, err = echo.Call(t.Context(), nobody, make([]byte, 2*payload))
	require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
	require.ErrorIs(t, err, nats.ErrNoResponders)
}

// A response that its caller does not fetch is forgotten: when the caller gives up, and when it is gone.
func TestLargeResponseIsNotFetched(t *testing.T) {
	svc := service
	svc.Concurrency = 1
	srv, client := largeService(t, svc)
	c := client()
	nc := natstest.Connect(t, srv)
	for name, leave := range map[string]func(inbox *nats.Subscription, control string){
		"cancel": func(_ *nats.Subscription, control string) {
			require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: control, Header: nats.Header{"Tandem-Control": {"cancel"}}}))
		},
		"gone": func(inbox *nats.Subscription, _ string) { require.NoError(t, inbox.Unsubscribe()) },
		"wrong opening": func(_ *nats.Subscription, control string) {
			require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: control, Reply: "nowhere.1", Header: nats.Header{"Tandem-Stream": {"x"}}}))
		},
		"fetched by nobody": func(_ *nats.Subscription, control string) {
			require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: control, Reply: "nowhere.1", Header: nats.Header{"Tandem-Stream": {"65536 -"}}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inbox := askBlow(t, nc, 10*payload)
			for {
				m, err := inbox.NextMsg(time.Minute)
				require.NoError(t, err)
				if m.Header.Get("Tandem-Answer") != "alive" {
					require.Equal(t, "large", m.Header.Get("Tandem-Answer"), "%s", m.Data)
					_, err := double.Call(t.Context(), c, 2)
					require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err), "it is kept")
					leave(inbox, m.Reply)
					break
				}
			}
			require.Eventually(t, func() bool {
				n, err := double.Call(t.Context(), c, 2)
				return err == nil && n == 4
			}, 30*time.Second, time.Millisecond)
		})
	}
}

// askBlow calls blow as a foreign caller does, and returns where the answers come.
func askBlow(t *testing.T, nc *nats.Conn, n int) *nats.Subscription {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	require.NoError(t, err)
	request, err := ipc.Marshal(ipc.CBOR, nil, n)
	require.NoError(t, err)
	require.NoError(t, nc.PublishMsg(&nats.Msg{
		Subject: "tandem.test.call.test.blow", Reply: inbox.Subject, Data: request,
		Header: nats.Header{"Tandem-Call": {fmt.Sprintf("1 %x cbor le 0 10000000 0 -", blow.Info().ID)}},
	}))
	return inbox
}

// One message fetches a response; others are refused at once. A response that was fetched in vain counts as a failed call.
func TestSecondFetch(t *testing.T) {
	srv, _ := largeService(t, service)
	nc := natstest.Connect(t, srv)
	inbox := askBlow(t, nc, 100*payload)
	for {
		m, err := inbox.NextMsg(time.Minute)
		require.NoError(t, err)
		if m.Header.Get("Tandem-Answer") != "large" {
			continue
		}
		for i := range 3 {
			frames, err := nc.SubscribeSync(nc.NewInbox())
			require.NoError(t, err)
			require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: m.Reply, Reply: frames.Subject, Header: nats.Header{"Tandem-Stream": {"65536 -"}}}))
			frame, err := frames.NextMsg(time.Minute)
			require.NoError(t, err)
			if i == 0 {
				require.NotContains(t, string(frame.Data), "no response to fetch")
			} else {
				require.Contains(t, string(frame.Data), "no response to fetch")
			}
			defer func() { _ = frames.Unsubscribe() }()
		}
		break
	}
	require.Eventually(t, func() bool { // nobody says that it lives
		e := endpointStats(t, nc)["tandem.test.call.test.blow"]
		return e.NumErrors == 1 && e.NumRequests == 1
	}, 30*time.Second, time.Millisecond)
}
