package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// netHTTP is the standard library's HTTP/1.1, a POST of bytes over a Unix socket. As the
// documentation of net/http says, there is one Transport for all callers, which keeps the
// connections alive: each response is read to its end and closed, and MaxIdleConnsPerHost,
// which is 2 by default, is the number of callers. Compression, which would not be asked
// for between processes of one machine, is off. Both sides say how long the body is, so
// that it is neither sent in chunks nor read into a buffer that grows.
var netHTTP = peer{
	name: "net/http", codec: "raw", most: 64 << 20,
	serve: func(l net.Listener) error {
		return http.Serve(l, http.HandlerFunc(httpEcho))
	},
	dial: func(_ context.Context, path string, callers int) (client, error) {
		return newHTTPClient(func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}, callers), nil
	},
}

func newHTTPClient(dial func(context.Context) (net.Conn, error), callers int) client {
	t := &http.Transport{
		DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConns: callers, MaxIdleConnsPerHost: callers,
		DisableCompression: true,
	}
	return httpClient{&http.Client{Transport: t}}
}

func httpEcho(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream") // or else it would be guessed
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that is gone needs no answer
}

type httpClient struct{ *http.Client }

func (c httpClient) Echo(int) suite.Echo {
	return func(ctx context.Context, b []byte) ([]byte, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://echo/", bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		response, err := c.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || response.ContentLength < 0 {
			return nil, fmt.Errorf("the server answered %s with a body of length %d", response.Status, response.ContentLength)
		}
		// The end comes with the last byte, and frees the connection for the next call.
		body := make([]byte, response.ContentLength)
		_, err = io.ReadFull(response.Body, body)
		return body, err
	}
}

func (c httpClient) Close() error {
	c.CloseIdleConnections()
	return nil
}
