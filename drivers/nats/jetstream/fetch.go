package jetipc

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// message is a message of a stream.
type message struct {
	natsjs.Msg
	seq   uint64 // in the stream
	ahead uint64 // how many the consumer has yet to deliver
	size  int64
}

// fetcher fetches messages by a consumer, one request after the other, and survives what its server does.
type fetcher struct {
	js    natsjs.JetStream
	cons  natsjs.Consumer
	name  string // of the consumer, for errors
	bytes int64
	// add says of each message, as soon as it is here, whether it goes into the queue.
	add func(message) bool
	// over, if there is one, is asked after each request whether that is the end.
	over func(context.Context) bool

	queue  chan message
	room   chan struct{} // has a token when there is more room in the queue
	queued atomic.Int64  // bytes
	err    error         // why it has ended, when queue is closed
}

func newFetcher(js natsjs.JetStream, cons natsjs.Consumer, name string, messages, bytes int, add func(message) bool) *fetcher {
	return &fetcher{js: js, cons: cons, name: name, bytes: int64(bytes), add: add, queue: make(chan message, messages), room: make(chan struct{}, 1)}
}

// took says that a message was taken from the queue.
func (f *fetcher) took(m message) {
	f.queued.Add(-m.size)
	select {
	case f.room <- struct{}{}:
	default:
	}
}

// run fetches until ctx ends, or it is the end, and closes the queue.
func (f *fetcher) run(ctx context.Context) {
	defer close(f.queue)
	if f.over != nil && f.over(ctx) {
		return
	}
	failed := 0
	for ctx.Err() == nil {
		n := cap(f.queue) - len(f.queue)
		if n < (cap(f.queue)+3)/4 || f.queued.Load() > f.bytes/2 {
			select {
			case <-f.room:
			case <-ctx.Done():
			}
			continue
		}
		came, err := f.fetch(ctx, n)
		switch {
		case ctx.Err() != nil:
			return
		case came > 0 || err == nil:
			failed = 0
		default:
			if failed++; f.failed(ctx, err, failed) {
				return
			}
			sleep(ctx, min(50*time.Millisecond<<min(failed, 5), time.Second))
		}
		if f.over != nil && f.over(ctx) {
			return
		}
	}
}

// fetch fetches up to n messages, and returns how many came. err is nil if there are just none.
func (f *fetcher) fetch(ctx context.Context, n int) (came int, err error) {
	wait, heartbeat := 10*time.Second, time.Second
	if f.over != nil {
		wait, heartbeat = 300*time.Millisecond, 100*time.Millisecond
	}
	ctx, cancel := whileConnected(ctx, f.js.Conn(), wait)
	defer cancel()
	// A message that is larger than the limit would never come.
	limit := max(f.bytes-f.queued.Load(), f.js.Conn().MaxPayload()+64<<10)
	batch, err := f.cons.Fetch(n, natsjs.FetchContext(ctx), natsjs.FetchHeartbeat(heartbeat), natsjs.FetchMaxBytes(int(limit)))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			continue // no message of a stream
		}
		came++
		m := message{Msg: msg, seq: meta.Sequence.Stream, size: int64(len(msg.Data()))}
		if f.add(m) {
			f.queued.Add(m.size)
			f.queue <- m // there is room
		}
	}
	if err = batch.Error(); err == ctx.Err() {
		err = nil
	}
	return came, err
}

// whileConnected returns a context that ends after a time, and when the connection was made anew: what was asked for before may
// never be answered.
func whileConnected(ctx context.Context, nc *nats.Conn, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	status := nc.StatusChanged(nats.CONNECTED)
	go func() {
		select {
		case <-status:
			cancel()
		case <-ctx.Done():
		}
		nc.RemoveStatusListener(status)
	}()
	return ctx, cancel
}

// notThere is how many times in a row a consumer may be missing, while a server starts say.
const notThere = 10

// failed reports whether fetching has failed for good, with err for the so-manieth time in a row.
func (f *fetcher) failed(ctx context.Context, err error, times int) bool {
	switch {
	case f.js.Conn().IsClosed(), errors.Is(err, nats.ErrConnectionClosed):
		err = nats.ErrConnectionClosed
	case errors.Is(err, natsjs.ErrConsumerDeleted), errors.Is(err, natsjs.ErrBadRequest):
	case times >= notThere:
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		if _, err = f.cons.Info(ctx); !gone(err) {
			return false
		}
	default:
		return false
	}
	f.err = fmt.Errorf("tandem: jetstream: %s: %w", f.name, err)
	return true
}

// gone reports whether err says that there is no such consumer, or no such stream.
func gone(err error) bool {
	return errors.Is(err, natsjs.ErrConsumerNotFound) || errors.Is(err, natsjs.ErrStreamNotFound)
}
