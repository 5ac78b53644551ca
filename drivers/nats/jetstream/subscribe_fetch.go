package jetipc

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/tandemipc/tandem/ipc"
)

// message is a message of a stream.
type message struct {
	natsjs.Msg
	seq uint64 // in the stream
	at  time.Time
}

// fetched returns the next message of a consumer.
func (s *Subscription[T]) fetched(ctx context.Context) (m message, err error) {
	missing := 0
	for failed := 0; ; {
		if err = s.fetch(ctx); err == nil {
			if m, err = s.fromBatch(ctx); err == nil {
				return m, nil
			}
		}
		switch {
		case s.ctx.Err() != nil:
			return m, ipc.ErrClosed
		case ctx.Err() != nil:
			return m, ctx.Err()
		case s.js.Conn().IsClosed():
			return m, s.failed(nats.ErrConnectionClosed)
		case err == errEmpty:
			failed, missing = 0, 0
			continue
		}
		s.drop()
		if missing++; !refused(err) {
			missing = 0
		}
		if missing >= notThere || errors.Is(err, ErrReplaced) {
			return m, s.failed(err)
		}
		failed++
		backOff(ctx, failed)
	}
}

// refused reports whether the server says that there is no such stream, or that it makes no consumer of it, such as for a limit.
func refused(err error) bool {
	var api *natsjs.APIError
	return errors.Is(err, natsjs.ErrStreamNotFound) || errors.As(err, &api) && !transient(err)
}

// errEmpty says that there is no message, though all is well.
var errEmpty = errors.New("tandem: jetstream: no message")

// consumer is what [Subscription.consume] makes.
type consumer struct {
	natsjs.Consumer
	end        context.CancelFunc
	reconnects uint64 // of the connection, before it was made
	delivered  uint64
}

// made is a consumer, or why there is none.
type made struct {
	cons *consumer
	err  error
}

// consume makes a consumer. It begins with the record that came last: if that is the same as before, so is the stream. It may outlast ctx; then the
// next call goes on with it.
func (s *Subscription[T]) consume(ctx context.Context) error {
	if s.making == nil {
		c := natsjs.ConsumerConfig{AckPolicy: natsjs.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
			DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: s.next}
		if s.last.seq > 0 && s.last.seq == s.next-1 {
			c.OptStartSeq = s.last.seq
		}
		if s.snapshot > 0 {
			c.DeliverPolicy, c.OptStartSeq, c.FilterSubject = natsjs.DeliverLastPerSubjectPolicy, 0, s.place.subject+".>"
		}
		making, least := make(chan made, 1), s.next-1
		s.making = making
		go func() {
			cons, err := newConsumer(s.ctx, &s.same, &c, least)
			making <- made{cons, err}
		}()
	}
	select {
	case result := <-s.making:
		s.making, s.cons = nil, result.cons
		return result.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newConsumer makes a consumer for as long as ctx lasts, of the stream that is the same as before, and had records up to number least.
func newConsumer(ctx context.Context, stream *identity, c *natsjs.ConsumerConfig, least uint64) (*consumer, error) {
	nc := stream.js.Conn()
	for !nc.IsConnected() && !nc.IsClosed() && ctx.Err() == nil {
		sleep(ctx, 20*time.Millisecond) // or nats.go would keep one request after the other, and send them all
	}
	reconnects := nc.Stats().Reconnects
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c.Name = nuid.Next()
	ctx, end := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
		defer cancel()
		_ = stream.js.DeleteConsumer(ctx, stream.stream, c.Name) // or the server does
	})
	cons, err := stream.js.CreateConsumer(attempt, stream.stream, *c)
	if err == nil {
		err = stream.check(ctx, least, 0, time.Time{})
	}
	if err != nil {
		end()
		return nil, err
	}
	return &consumer{Consumer: cons, end: end, reconnects: reconnects}, nil
}

// fetch makes sure that there is a batch.
func (s *Subscription[T]) fetch(ctx context.Context) error {
	if s.cons == nil {
		if err := s.consume(ctx); err != nil {
			return err
		}
	}
	if s.batch != nil {
		return nil
	}
	// The server ends it earlier.
	until, cancel := whileConnected(s.ctx, s.js.Conn(), s.pace.wait())
	batch, err := s.cons.Fetch(256, natsjs.FetchContext(until), natsjs.FetchHeartbeat(s.pace.heartbeat()), natsjs.FetchMaxBytes(int(s.js.Conn().MaxPayload())+64<<10))
	if err != nil {
		cancel()
		return err
	}
	s.batch, s.endBatch, s.came = batch, cancel, false
	return nil
}

// fromBatch returns the next message of the batch, or errEmpty when another one is to be fetched.
func (s *Subscription[T]) fromBatch(ctx context.Context) (m message, err error) {
	select {
	case msg, ok := <-s.batch.Messages():
		if ok {
			meta, err := msg.Metadata()
			if err != nil {
				return m, err
			}
			if s.cons.delivered++; meta.Sequence.Consumer != s.cons.delivered {
				return m, errUnconfirmed // one is lost on the way: another consumer begins there
			}
			s.came = true
			return message{Msg: msg, seq: meta.Sequence.Stream, at: meta.Timestamp}, nil
		}
	case <-ctx.Done():
		return m, ctx.Err()
	case <-s.ctx.Done():
		return m, ipc.ErrClosed
	}
	err = s.batch.Error()
	s.pace.saw(s.came, err)
	s.dropBatch()
	switch {
	case s.js.Conn().Stats().Reconnects != s.cons.reconnects: // what was on its way is lost
		return m, nats.ErrDisconnected
	case err != nil:
		return m, err
	case s.came:
	case s.snapshot > 0: // the rest is gone
		s.live()
	default:
		// What is lost between servers nothing else tells, if nothing follows.
		ask, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		if info, err := s.cons.Info(ask); err == nil && info.Delivered.Consumer != s.cons.delivered {
			return m, errUnconfirmed
		}
	}
	return m, errEmpty
}

// drop makes the next message come with another consumer.
func (s *Subscription[T]) drop() {
	s.dropBatch()
	if s.cons != nil {
		s.cons.end()
		s.cons = nil
	}
}

// pace says how long a request for messages waits. What comes after that is missed, and comes once more after a time. So a
// request waits longer after one that has heard nothing: however slow the server is, something comes at last.
type pace struct{ slower int }

// heartbeat is how often the server is to say that it is there. It is missed after twice that.
func (p pace) heartbeat() time.Duration { return heartbeat << p.slower }

// wait is how long a request waits for messages.
func (p pace) wait() time.Duration { return 4 * p.heartbeat() }

// saw takes account of a request that has ended.
func (p *pace) saw(came bool, err error) {
	if came {
		p.slower = 0
	} else if errors.Is(err, natsjs.ErrNoHeartbeat) {
		p.slower = min(p.slower+1, 4)
	}
}
