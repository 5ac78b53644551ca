package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Scenario streams: items of bytes on one stream, of the drivers and of those peers that have
// streams.

const (
	streamsName  = "streams"
	serverStream = "server stream"
	bidiStream   = "bidi stream"
)

// wanted asks for items of Size bytes for so many nanoseconds. Its bytes are those of Fixed.
type wanted struct{ For, Size int64 }

func (w wanted) encode() []byte {
	b, err := ipc.Marshal(ipc.Fixed, nil, w)
	if err != nil {
		panic(err) // it has no pointers
	}
	return b
}

// A streamer is a client that can open streams.
type streamer interface {
	// Down opens a stream of what asked asks for. receive returns io.EOF after the last item;
	// close ends what goes on of it.
	Down(ctx context.Context, asked []byte) (receive func() ([]byte, error), close func(), err error)
	// Both opens a stream that returns what it gets. sent is called after the last send.
	Both(ctx context.Context) (send func([]byte) error, sent func() error, receive func() ([]byte, error), close func(), err error)
}

// serveDown is the server's part of Down.
func serveDown(asked []byte, send func([]byte) error) error {
	w, err := ipc.Unmarshal[wanted](ipc.Fixed, asked)
	if err != nil {
		return err
	}
	return suite.SendItems(time.Duration(w.For), itemSender(int(w.Size), send))
}

func itemSender(size int, send func([]byte) error) func(number, check uint64) error {
	item := make([]byte, size)
	return func(number, check uint64) error {
		suite.PutNumbers(item, number, check)
		return send(item)
	}
}

func itemReceiver(size int, receive func() ([]byte, error)) func() (number, check uint64, err error) {
	return func() (number, check uint64, err error) {
		item, err := receive()
		if err != nil {
			return 0, 0, err
		}
		return suite.Numbers(item, size)
	}
}

// passDown passes items to the host for about d, and returns how many.
func passDown(ctx context.Context, c streamer, size int, d time.Duration) (uint64, error) {
	receive, end, err := c.Down(ctx, wanted{int64(d), int64(size)}.encode())
	if err != nil {
		return 0, err
	}
	defer end()
	return suite.ReceiveItems(itemReceiver(size, receive))
}

// passBoth passes items there and back, and returns how many have come back.
func passBoth(ctx context.Context, c streamer, size int, d time.Duration) (uint64, error) {
	send, sent, receive, end, err := c.Both(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	sending := make(chan error, 1)
	go func() {
		err := suite.SendItems(d, itemSender(size, send))
		if err == nil {
			err = sent()
		}
		sending <- err
	}()
	n, err := suite.ReceiveItems(itemReceiver(size, receive))
	if err != nil {
		return n, err // which ends the sending
	}
	return n, <-sending
}

func streamsScenario() suite.Scenario {
	return suite.Scenario{
		Name: streamsName, Title: "items on one stream", Subjects: append([]string{grpcPeer.name, drpcPeer.name}, suite.Drivers...),
		About: `A stream of bytes, from its opening to its end, over one connection: a server stream to the host, as fast as both sides can, ` +
			`and a bidi stream that returns each item, while others are sent. One goroutine sends at each end, and one receives. Each item ` +
			`has a number, and both ends of each are checked. The peers are configured as in the other scenarios, and sent messages ` +
			`are new memory where a library keeps them. MB/s counts one direction.`,
		Plan: planStreams,
	}
}

func planStreams(o *suite.Options) (suite.Plan, error) {
	pool := new(pool)
	p := suite.Plan{Close: pool.close}
	for _, size := range suite.Given(o, o.Sizes, []int{64, 4 << 10}, []int{64}) {
		if size < suite.ItemLeast {
			p.Skipped = append(p.Skipped, fmt.Sprintf("items of %s: they hold two numbers of 8 B", report.Size(size)))
			continue
		}
		for _, mode := range []string{serverStream, bidiStream} {
			var g suite.Group
			pass := passDown
			if mode == bidiStream {
				pass = passBoth
			}
			add := func(subject, wait, codec string, start func(context.Context) (suite.Meter, client, error)) {
				r := streamsResult(subject, mode, codec, size)
				r.Wait = wait
				g.Cases = append(g.Cases, suite.Case{Result: r, Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					w, c, err := start(ctx)
					if err != nil {
						return measure.Sample{}, err
					}
					if _, err := pass(ctx, c.(streamer), size, d/10); err != nil { // warm up
						return measure.Sample{}, w.Blame(err)
					}
					return w.Measure(ctx, func(s *measure.Sample) error {
						began := measure.Now()
						n, err := pass(ctx, c.(streamer), size, d)
						s.Busy = measure.Now() - began
						s.Ops, s.Bytes = int64(n), int64(n)*int64(size)
						return err
					})
				}})
			}
			for _, way := range suite.Ways(o, []string{"adaptive"}, []string{"adaptive"}) {
				add(way.Subject, way.Wait, "raw", func(ctx context.Context) (suite.Meter, client, error) { return pool.driver(ctx, way) })
			}
			for _, peer := range []peer{grpcPeer, drpcPeer} {
				if o.Wants(peer.name) {
					add(peer.name, "", peer.codec, func(ctx context.Context) (suite.Meter, client, error) { return pool.peer(ctx, peer, 1) })
				}
			}
			p.Groups = append(p.Groups, g)
		}
	}
	return p, nil
}

// streamsResult identifies a result of the scenario streams.
func streamsResult(subject, mode, codec string, size int) report.Result {
	r := report.Result{Scenario: streamsName, Subject: subject, Mode: mode, Codec: codec, Bytes: new(size), Callers: 1}
	if subject == shm.Name {
		r.Wait = "adaptive"
	}
	return r
}

// The streams of a driver of this module.
var (
	down = ipc.NewServerStream[[]byte, []byte]("peers.down", ipc.WithCodec(ipc.Raw))
	both = ipc.NewBidiStream[[]byte, []byte]("peers.both", ipc.WithCodec(ipc.Raw))
)

func registerStreams(s *worker.Server) {
	worker.HandleServerStream(s, down, func(ctx context.Context, asked []byte, out *ipc.Sender[[]byte]) error {
		return serveDown(asked, func(item []byte) error { return out.Send(ctx, item) })
	})
	worker.HandleBidiStream(s, both, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		for item, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			if err := out.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c driverClient) Down(ctx context.Context, asked []byte) (receive func() ([]byte, error), end func(), err error) {
	st, err := down.Open(ctx, c.w, asked)
	if err != nil {
		return nil, nil, err
	}
	return func() ([]byte, error) { return st.Receive(ctx) }, st.Close, nil
}

func (c driverClient) Both(ctx context.Context) (send func([]byte) error, sent func() error, receive func() ([]byte, error), end func(), err error) {
	st, err := both.Open(ctx, c.w)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	return func(item []byte) error { return st.Send(ctx, item) }, func() error { return st.CloseSend(ctx) },
		func() ([]byte, error) { return st.Receive(ctx) }, st.Close, nil
}
