package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// serve is the worker.
func serve() error {
	s := worker.NewServer()
	web := newWeb()
	worker.Handle(s, Serve, func(_ context.Context, f ipc.File) (struct{}, error) {
		l, err := net.FileListener(f.File()) // a duplicate, so f may be closed with the request
		if err == nil {
			web.begin(l)
		}
		return struct{}{}, err
	})
	worker.Handle(s, Drain, func(ctx context.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, web.drain(ctx)
	})
	return s.Serve(context.Background())
}

// web is a web server that ends without losing a connection that it has accepted.
// [http.Server.Shutdown] alone would close one whose request it has not read yet.
type web struct {
	server   http.Server
	listener net.Listener
	served   chan error // what Serve has returned

	mu      sync.Mutex
	busy    map[net.Conn]bool // that have a request, or have just come
	changed chan struct{}     // capacity 1
}

func newWeb() *web {
	w := &web{served: make(chan error, 1), busy: make(map[net.Conn]bool), changed: make(chan struct{}, 1)}
	w.server.ReadHeaderTimeout = 10 * time.Second
	w.server.ConnState = w.note
	w.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) })
	return w
}

func (w *web) begin(l net.Listener) {
	w.listener = l
	go func() { w.served <- w.server.Serve(l) }()
}

// note keeps busy up to date.
func (w *web) note(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		w.busy[c] = true
		return
	}
	delete(w.busy, c)
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *web) isBusy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.busy) > 0
}

// drain accepts no further connections, and returns when those that were accepted are served.
func (w *web) drain(ctx context.Context) error {
	w.listener.Close() // ours; others have theirs
	if err := <-w.served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	w.server.SetKeepAlivesEnabled(false) // connections end with their requests
	for w.isBusy() {
		select {
		case <-w.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return w.server.Shutdown(ctx) // those that are idle: their clients know that this may happen
}
