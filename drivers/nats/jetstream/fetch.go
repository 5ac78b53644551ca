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
	seq        uint64 // in the stream
	delivery   uint64 // of the consumer, from 1
	deliveries uint64 // of the message
	ahead      uint64 // how many the consumer has yet to deliver
	size       int64
}

// fetcher fetches messages by a consumer, one request after the other, and survives what its server does.
type fetcher struct {
	js    natsjs.JetStream
	cons  natsjs.Consumer
	bytes int64
	// add says of each message, as soon as it is here, whether it goes into the queue.
	add func(message) bool
	// idle, if there is one, is asked when there is nothing to fetch whether that is the end.
	idle func(context.Context) bool

	queue  chan message
	room   chan struct{} // has a token when there is more room in the queue
	queued atomic.Int64  // bytes
	err    error         // why it has ended, when queue is closed
}

func newFetcher(js natsjs.JetStream, cons natsjs.Consumer, messages, bytes int, add func(message) bool) *fetcher {
	return &fetcher{js: js, cons: cons, bytes: int64(bytes), add: add, queue: make(chan message, messages), room: make(chan struct{}, 1)}
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
		case came > 0:
			failed = 0
		case err == nil:
			failed = 0
			if f.idle != nil && len(f.queue) == 0 && f.idle(ctx) {
				return
			}
		default:
			if failed++; f.over(ctx, err, failed) {
				return
			}
			sleep(ctx, min(50*time.Millisecond<<min(failed, 5), time.Second))
		}
	}
}

// fetch fetches up to n messages, and returns how many came. err is nil if there are just none.
func (f *fetcher) fetch(ctx context.Context, n int) (came int, err error) {
	wait, heartbeat := 10*time.Second, time.Second
	if f.idle != nil {
		wait, heartbeat = 500*time.Millisecond, 200*time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
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
		m := message{Msg: msg, seq: meta.Sequence.Stream, delivery: meta.Sequence.Consumer, deliveries: meta.NumDelivered, ahead: meta.NumPending}
		m.size = int64(len(msg.Data()))
		if f.add(m) {
			f.queued.Add(m.size)
			f.queue <- m // there is room
		}
	}
	if err = batch.Error(); errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return came, err
}

// notThere is how many times in a row a consumer may be missing, while a server starts say.
const notThere = 10

// over reports whether fetching has failed for good, with err for the so-manieth time.
func (f *fetcher) over(ctx context.Context, err error, failed int) bool {
	info := f.cons.CachedInfo()
	switch {
	case f.js.Conn().IsClosed(), errors.Is(err, nats.ErrConnectionClosed):
		f.err = fmt.Errorf("tandem: jetstream: consumer %q: %w", info.Name, nats.ErrConnectionClosed)
	case errors.Is(err, natsjs.ErrConsumerDeleted), errors.Is(err, natsjs.ErrBadRequest):
		f.err = fmt.Errorf("tandem: jetstream: consumer %q: %w", info.Name, err)
	case errors.Is(err, nats.ErrNoResponders) && failed >= notThere:
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_, err := f.js.Consumer(ctx, info.Stream, info.Name)
		if errors.Is(err, natsjs.ErrConsumerNotFound) || errors.Is(err, natsjs.ErrStreamNotFound) {
			f.err = fmt.Errorf("tandem: jetstream: consumer %q: %w", info.Name, err)
		}
	}
	return f.err != nil
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
