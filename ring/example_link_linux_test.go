package ring_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/tandemipc/tandem/ring"
)

// Two ends of a link, here in one process. In life the peer inherits its socket, or is passed it.
func ExampleExchange() {
	ctx := context.Background()
	ours, theirs, err := ring.Socketpair()
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := net.FileConn(theirs)
		theirs.Close()
		if err != nil {
			log.Fatal(err)
		}
		peer, err := ring.Exchange(ctx, conn.(*net.UnixConn), 64<<10)
		if err != nil {
			log.Fatal(err)
		}
		for i := range 3 {
			if err := peer.Producer.Send(ctx, byte(i), fmt.Append(nil, "record ", i), nil); err != nil {
				log.Fatal(err)
			}
		}
		peer.Close()
	}()

	link, err := ring.Exchange(ctx, ours, ring.MinSize) // we only receive
	if err != nil {
		log.Fatal(err)
	}
	defer link.Close()
	for {
		r, ok, err := link.Consumer.Next()
		if err != nil {
			log.Fatal(err)
		}
		if ok {
			fmt.Println(r.Tag, string(r.Data))
			continue
		}
		if err := link.Consumer.Wait(ctx); err != nil {
			fmt.Println("gone:", errors.Is(err, ring.ErrPeerGone))
			return
		}
	}
	// Output:
	// 0 record 0
	// 1 record 1
	// 2 record 2
	// gone: true
}
