//go:build unix

package netconn_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

// serveWeb is what main runs in the worker: worker.Main("web", serveWeb).
func serveWeb() error {
	s := worker.NewServer()
	go func() {
		_ = http.Serve(netconn.Listen(s, "web"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s, over shared memory", r.Method, r.URL.Path)
		}))
	}()
	return s.Serve(context.Background())
}

// A worker serves HTTP, and its host is a client of that. Nothing else knows that there is no
// network.
func Example() {
	ctx := context.Background()
	w, err := worker.Spawn(ctx, worker.Self("web"), shm.Driver{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	t := &http.Transport{DialContext: netconn.NewDialer(w, "web").DialContext}
	defer t.CloseIdleConnections() // before the worker is closed
	c := http.Client{Transport: t}
	res, err := c.Get("http://worker/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	fmt.Println(string(body), err)
	// Output: GET /hello, over shared memory <nil>
}

// The host listens, and whatever its workers run dials it.
func ExampleListen() {
	var hosts worker.Handlers // of all workers
	l := netconn.Listen(&hosts, "log")
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the listener is closed
			}
			go keep(c)
		}
	}()
	w, err := worker.Spawn(context.Background(), worker.Self("web"), shm.Driver{}, worker.WithHandlers(&hosts))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close() // its handlers dial with netconn.Dial(ctx, worker.Host(ctx), "log")
	fmt.Println(l.Addr().Network(), l.Addr().(netconn.Addr).Name)
	// Output: tandem log
}

func keep(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(io.Discard, c)
}
