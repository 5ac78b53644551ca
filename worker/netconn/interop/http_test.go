//go:build unix

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/netconn"
)

// serveHTTP serves HTTP/1.1, and HTTP/2 without TLS.
func serveHTTP(one, two net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proto", r.Proto)
		w.Header().Set("Remote", r.RemoteAddr)
		b, err := io.ReadAll(r.Body) // HTTP/1 is one way after the other
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum, size, err := sumOf(r.Body)
		fmt.Fprintln(w, sum, size, err)
	})
	mux.HandleFunc("/random", func(w http.ResponseWriter, r *http.Request) {
		var size int64
		_, _ = fmt.Sscan(r.URL.RawQuery, &size)
		body, _ := random(size, 7)
		_, _ = io.Copy(w, body)
	})
	var gone atomic.Int32
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone.Add(1)
	})
	mux.HandleFunc("/gone", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, gone.Load()) })
	go func() { _ = http.Serve(one, mux) }()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	go func() { _ = (&http.Server{Handler: mux, Protocols: &p, IdleTimeout: time.Minute}).Serve(two) }()
}

// transports are those of both protocols. dials counts how often they have dialled.
func transports(t *testing.T, w client, test func(t *testing.T, c *http.Client, dials *atomic.Int32)) {
	for name, two := range map[string]bool{"http": false, "h2c": true} {
		t.Run(name, func(t *testing.T) {
			var dials atomic.Int32
			dialer := netconn.NewDialer(w, name)
			tr := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return dialer.DialContext(ctx, network, address)
			}, DisableCompression: true}
			if two {
				tr.Protocols = new(http.Protocols)
				tr.Protocols.SetUnencryptedHTTP2(true)
			}
			defer tr.CloseIdleConnections()
			test(t, &http.Client{Transport: tr, Timeout: 5 * time.Minute}, &dials)
		})
	}
}

func body(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	return string(b)
}

// Requests that follow each other use one connection. Only when net/http is held up for 50 ms does it not use it again.
func TestHTTPKeepsConnections(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		transports(t, w, func(t *testing.T, c *http.Client, dials *atomic.Int32) {
			for i := range 100 {
				text := strings.Repeat(fmt.Sprint(i), i)
				res, err := c.Post("http://worker/echo", "text/plain", strings.NewReader(text))
				require.Equal(t, text, body(t, res, err))
				require.Equal(t, map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[res.ProtoMajor == 2], res.Header.Get("Proto"))
				require.Contains(t, res.Header.Get("Remote"), fmt.Sprintf("@%d", os.Getpid()))
			}
			require.Less(t, dials.Load(), int32(10))
		})
	})
}

// Many clients at once get their own answers.
func TestHTTPConcurrently(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		transports(t, w, func(t *testing.T, c *http.Client, _ *atomic.Int32) {
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					for j := range 20 {
						text := strings.Repeat(fmt.Sprintf("%d/%d ", i, j), 1+i*j*10)
						res, err := c.Post("http://worker/echo", "text/plain", strings.NewReader(text))
						if err != nil {
							t.Error(err)
							return
						}
						b, err := io.ReadAll(res.Body)
						res.Body.Close()
						if err != nil || string(b) != text {
							t.Errorf("%d bytes came back of %d: %v", len(b), len(text), err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	})
}

// Large bodies arrive whole, in both directions.
func TestHTTPLargeBodies(t *testing.T) {
	size := int64(100 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	eachDriver(t, func(t *testing.T, w client) {
		transports(t, w, func(t *testing.T, c *http.Client, _ *atomic.Int32) {
			r, sum := random(size, 3)
			res, err := c.Post("http://worker/sum", "application/octet-stream", r)
			require.Equal(t, fmt.Sprintln(sum, size, nil), body(t, res, err))

			_, sum = random(size, 7)
			res, err = c.Get(fmt.Sprintf("http://worker/random?%d", size))
			require.NoError(t, err)
			got, n, err := sumOf(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, size, n)
			require.Equal(t, sum, got)
		})
	})
}

// The server's handler learns that its client has gone.
func TestHTTPClientGoes(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		transports(t, w, func(t *testing.T, c *http.Client, _ *atomic.Int32) {
			count := func() string {
				res, err := c.Get("http://worker/gone")
				return body(t, res, err)
			}
			before := count()
			ctx, cancel := context.WithCancel(patience(t))
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://worker/wait", nil)
			require.NoError(t, err)
			res, err := c.Do(req)
			require.NoError(t, err)
			cancel()
			_, err = io.ReadAll(res.Body)
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, res.Body.Close())
			require.Eventually(t, func() bool { return count() != before }, time.Minute, time.Millisecond)
		})
	})
}

// A request that is running fails when the worker's process ends, and says so.
func TestHTTPServerDies(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		transports(t, w, func(t *testing.T, c *http.Client, _ *atomic.Int32) {
			if c.Transport.(*http.Transport).Protocols != nil {
				t.Skip("one worker dies once, and HTTP/1 is it")
			}
			res, err := c.Get("http://worker/wait")
			require.NoError(t, err)
			kill(t, w)
			_, err = io.ReadAll(res.Body)
			require.Error(t, err)
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			_, err = c.Get("http://worker/echo")
			require.ErrorIs(t, err, ipc.ErrPeerGone)
		})
	})
}

// serveWebSockets echoes messages.
func serveWebSockets(l net.Listener) {
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(64 << 20)
			for {
				kind, b, err := c.Read(r.Context())
				if err != nil {
					return // the other side has closed it, as a rule
				}
				if err := c.Write(r.Context(), kind, b); err != nil {
					return
				}
			}
		}))
	}()
}

// Messages of a WebSocket come back, small ones and large ones, and it closes in order.
func TestWebSocket(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		tr := &http.Transport{DialContext: netconn.NewDialer(w, "websocket").DialContext}
		defer tr.CloseIdleConnections()
		ctx := patience(t)
		c, _, err := websocket.Dial(ctx, "ws://worker/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
		require.NoError(t, err)
		c.SetReadLimit(64 << 20)
		for _, size := range []int{0, 1, 100, 4000, 5000, 70_000, 5 << 20} {
			sent := bytes.Repeat([]byte("tandem"), size/6+1)[:size]
			require.NoError(t, c.Write(ctx, websocket.MessageBinary, sent))
			kind, got, err := c.Read(ctx)
			require.NoError(t, err)
			require.Equal(t, websocket.MessageBinary, kind)
			require.True(t, bytes.Equal(sent, got), "a message of %d bytes", size)
		}
		require.NoError(t, c.Close(websocket.StatusNormalClosure, "done"))
		_, _, err = c.Read(ctx)
		require.Error(t, err)
		var closed websocket.CloseError
		require.True(t, errors.As(err, &closed) || errors.Is(err, net.ErrClosed), "%v", err)
	})
}
