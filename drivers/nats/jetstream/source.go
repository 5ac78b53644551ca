package jetipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// Source takes the records of a pipeline from a JetStream stream, by a pull consumer that any number of processes
// share. It is a [pipeline.Numbered]: begin with [pipeline.FromNumbered]. The position of a record is the sequence
// of its message in the stream, whichever process takes it, and however often it comes.
//
// A message is acknowledged when the sink has taken what has become of it, and the server has confirmed that. While
// it is in the pipeline the source tells the server that it is worked on, so the consumer's AckWait says how
// soon those of a process that has died come to another one, and not how long a record may take. What a run has taken and not
// got through is given back at once when it ends.
//
// A Source may be used by several runs at a time.
type Source[T any] struct {
	js     natsjs.JetStream
	cons   natsjs.Consumer
	origin string
	sourceOptions
	held held
}

var _ pipeline.Numbered[[]byte] = (*Source[[]byte])(nil)

// NewSource makes a source of a consumer, which has to have explicit acknowledgements, and no MaxDeliver, since a message that
// is not delivered any more would be lost. MaxAckPending of the consumer bounds what all its processes together have taken
// and not done; the server's default is 1000, which is little.
func NewSource[T any](js natsjs.JetStream, consumer natsjs.Consumer, opts ...SourceOption) (*Source[T], error) {
	info := consumer.CachedInfo()
	switch c := info.Config; {
	case c.AckPolicy != natsjs.AckExplicitPolicy:
		return nil, fmt.Errorf("tandem: jetstream: consumer %q has the acknowledgements %v: a source needs explicit ones", info.Name, c.AckPolicy)
	case c.MaxDeliver > 0:
		return nil, fmt.Errorf("tandem: jetstream: consumer %q has MaxDeliver %d, after which a message would be lost: see jetipc.Deliveries", info.Name, c.MaxDeliver)
	}
	s := &Source[T]{js: js, cons: consumer}
	s.sourceOptions = sourceOptions{codec: ipc.CBOR, ahead: 256, aheadBytes: 1 << 20}
	for _, opt := range opts {
		opt(&s.sourceOptions)
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, info.Stream)
	if err != nil {
		return nil, fmt.Errorf("tandem: jetstream: stream %q: %w", info.Stream, err)
	}
	s.origin = fmt.Sprintf("%s.%d", info.Stream, stream.CachedInfo().Created.UnixNano())
	s.held.init(js.Conn(), info.Config.AckWait)
	return s, nil
}

// Origin names the stream of the source, as it was made: one that is made anew by the same name has another origin, as its sequences begin
// again. It is for [NewSink].
func (s *Source[T]) Origin() string { return s.origin }

// Pending asks the server how many messages of the consumer are not acknowledged, for [pipeline.Size].
func (s *Source[T]) Pending(ctx context.Context) (uint64, error) {
	info, err := s.cons.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("tandem: jetstream: %w", err)
	}
	return info.NumPending + uint64(max(info.NumAckPending, 0)), nil
}

// Records implements [pipeline.Numbered].
func (s *Source[T]) Records(ctx context.Context) iter.Seq2[pipeline.Item[T], error] {
	return func(yield func(pipeline.Item[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		f := newFetcher(s.js, s.cons, s.ahead, s.aheadBytes, s.held.add)
		if s.caughtUp {
			f.idle = s.isCaughtUp
		}
		go f.run(ctx)
		defer func() {
			cancel()
			for m := range f.queue { // which f closes
				s.held.giveBack(m.seq)
			}
		}()
		for m := range f.queue {
			f.took(m)
			if ctx.Err() != nil {
				s.held.giveBack(m.seq)
				return
			}
			v, err := s.decode(m)
			if err != nil {
				if err = s.discard(ctx, m, err); err == nil {
					continue
				}
				s.held.giveBack(m.seq)
				yield(pipeline.Item[T]{}, err)
				return
			}
			if !yield(pipeline.Item[T]{ID: pipeline.ID{Pos: m.seq}, Record: v}, nil) {
				return
			}
		}
		if f.err != nil && ctx.Err() == nil {
			yield(pipeline.Item[T]{}, f.err)
		}
	}
}

func (s *Source[T]) decode(m message) (v T, err error) {
	if s.deliveries > 0 && m.deliveries > s.deliveries {
		return v, ErrDeliveries
	}
	return decode[T](s.codec, m.Data())
}

// decode decodes a record. Bytes of codec raw are where they are.
func decode[T any](codec ipc.Codec, b []byte) (v T, err error) {
	if raw, ok := any(&v).(*[]byte); ok && codec == ipc.Raw {
		*raw = b
		return v, nil
	}
	if v, err = ipc.Unmarshal[T](codec, b); err != nil {
		err = fmt.Errorf("decode: %w", err)
	}
	return v, err
}

// discard makes a message not come again.
func (s *Source[T]) discard(ctx context.Context, m message, why error) error {
	if s.poison == nil {
		return fmt.Errorf("tandem: jetstream: message %d of stream %q: %w", m.seq, s.cons.CachedInfo().Stream, why)
	}
	if err := s.poison(ctx, m, why); err != nil {
		return fmt.Errorf("tandem: jetstream: message %d of stream %q is poison (%w): %w", m.seq, s.cons.CachedInfo().Stream, why, err)
	}
	return s.held.settle(ctx, []uint64{m.seq})
}

// isCaughtUp reports whether no message is left that the source has not.
func (s *Source[T]) isCaughtUp(ctx context.Context) bool {
	here := s.held.len() // before the server counts: what is acknowledged meanwhile is not elsewhere
	info, err := s.cons.Info(ctx)
	return err == nil && info.NumPending == 0 && info.NumAckPending <= here
}

// Done implements [pipeline.Numbered]: it acknowledges messages, and waits until the server has confirmed that.
func (s *Source[T]) Done(ctx context.Context, positions []uint64) error {
	return s.held.settle(ctx, positions)
}

// Release implements [pipeline.Numbered]: it gives messages back, so that others take them at once.
func (s *Source[T]) Release(positions []uint64) {
	for _, seq := range positions {
		s.held.giveBack(seq)
	}
}

// apiTimeout bounds a request to the server.
const apiTimeout = 5 * time.Second

// patience is how long the server may be away, or refuse, before an acknowledgement or a publication fails.
const patience = time.Minute

var errAway = errors.New("the server has not answered for too long")
