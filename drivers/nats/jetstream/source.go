package jetipc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// Source takes the records of a pipeline from a JetStream stream, by a pull consumer that any number of processes
// share. It is a [pipeline.Numbered]: begin with [pipeline.FromNumbered]. The position of a record is the sequence
// of its message in the stream, whichever process takes it, and however often it comes.
//
// A message is acknowledged when the sink has taken what has become of it, and Done returns when the server has confirmed that. While
// a record is in the pipeline the source tells the server that it is worked on, so the consumer's AckWait says how
// soon those of a process that has died come to another one, and not how long a record may take. What a run has taken and not
// got through is given back at once when it ends; what the server is sending just then comes again after AckWait.
//
// A server that was killed may have forgotten what it has confirmed. Then messages come again, with the positions that they had: [Sink]
// takes each once.
//
// While the server is away, or has no leader, a source waits. It ends with an error when the consumer or its stream is gone, or is found to be another one
// ([ErrReplaced]), and when the connection is closed. A Source may be used by several runs at a time.
type Source[T any] struct {
	js     natsjs.JetStream
	cons   natsjs.Consumer
	name   string // of the consumer and its stream, for errors
	origin string
	sourceOptions
	held held
}

var _ pipeline.Numbered[[]byte] = (*Source[[]byte])(nil)

// NewSource makes a source of a consumer, which has to have explicit acknowledgements, and no MaxDeliver, since a message that
// is not delivered any more would be lost. MaxAckPending of the consumer bounds what all its processes together have taken
// and not done; the server's default is 1000, which is little. ctx is for NewSource alone.
//
// The connection should have nats.ReconnectBufSize(-1): otherwise an acknowledgement may be sent long after it was given up.
//
// What the stream itself drops by its limits, before the consumer has got to it, the source cannot know: a stream that feeds pipelines should have
// jetstream.WorkQueuePolicy or InterestPolicy, or DiscardNew, or limits that are never reached.
func NewSource[T any](ctx context.Context, js natsjs.JetStream, consumer natsjs.Consumer, opts ...SourceOption) (*Source[T], error) {
	info, err := consumer.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("tandem: jetstream: source: %w", err)
	}
	c := info.Config
	s := &Source[T]{js: js, cons: consumer, name: fmt.Sprintf("consumer %q of stream %q", info.Name, info.Stream)}
	switch {
	case c.AckPolicy != natsjs.AckExplicitPolicy:
		return nil, fmt.Errorf("tandem: jetstream: %s has the acknowledgements %v: a source needs explicit ones", s.name, c.AckPolicy)
	case c.MaxDeliver > 0:
		return nil, fmt.Errorf("tandem: jetstream: %s has MaxDeliver %d, after which a message would be lost", s.name, c.MaxDeliver)
	case c.MaxRequestMaxBytes > 0 && int64(c.MaxRequestMaxBytes) < leastBytes(js.Conn()):
		return nil, fmt.Errorf("tandem: jetstream: %s has MaxRequestMaxBytes %d: a source needs %d, so that any message can come", s.name, c.MaxRequestMaxBytes, leastBytes(js.Conn()))
	case c.DeliverSubject != "":
		return nil, fmt.Errorf("tandem: jetstream: %s is a push consumer: a source needs one that is pulled from", s.name)
	}
	s.sourceOptions = sourceOptions{codec: ipc.CBOR, ahead: 256, aheadBytes: 4 << 20}
	for _, opt := range opts {
		opt(&s.sourceOptions)
	}
	stream, err := js.Stream(ctx, info.Stream)
	if err != nil {
		return nil, fmt.Errorf("tandem: jetstream: stream %q: %w", info.Stream, err)
	}
	s.origin = fmt.Sprintf("%s.%d", info.Stream, stream.CachedInfo().Created.UnixNano())
	wait := c.AckWait
	if len(c.BackOff) > 0 {
		wait = slices.Min(c.BackOff)
	}
	s.held.init(identity{js, info.Stream, stream.CachedInfo().Created}, consumer, s.name, wait)
	return s, nil
}

// Origin names the stream of the source, as it was made: one that is made anew by the same name has another origin, as its sequences begin
// again. It is for [NewSink].
func (s *Source[T]) Origin() string { return s.origin }

// Pending asks the server how many messages of the consumer are not acknowledged, for [pipeline.Size].
func (s *Source[T]) Pending(ctx context.Context) (uint64, error) {
	info, err := s.cons.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("tandem: jetstream: %s: %w", s.name, err)
	}
	return info.NumPending + uint64(max(info.NumAckPending, 0)), nil
}

// Records implements [pipeline.Numbered].
func (s *Source[T]) Records(ctx context.Context) iter.Seq2[pipeline.Item[T], error] {
	return func(yield func(pipeline.Item[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		f := newFetcher(s.js, s.cons, s.name, s.ahead, s.aheadBytes, &s.held)
		if s.drain {
			f.over = s.drained()
		}
		go f.run(ctx)
		defer func() {
			cancel()
			var rest []uint64
			for m := range f.queue { // which f closes
				rest = append(rest, m.seq)
			}
			s.held.giveBack(rest...)
		}()
		for m := range f.queue {
			f.took(m)
			if ctx.Err() != nil {
				s.held.giveBack(m.seq)
				return
			}
			v, err := decode[T](s.codec, m.Data)
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

// discard makes a message that is no record not come again.
func (s *Source[T]) discard(ctx context.Context, m fetched, why error) error {
	if s.poison == nil {
		return fmt.Errorf("tandem: jetstream: message %d, %s: %w", m.seq, s.name, why)
	}
	if err := s.poison(ctx, m.Msg, why); err != nil {
		return fmt.Errorf("tandem: jetstream: message %d, %s, is poison (%w): %w", m.seq, s.name, why, err)
	}
	return s.held.settle(ctx, []uint64{m.seq})
}

// drained returns a function that reports whether all is acknowledged that there was when it was first called. Its error is [ErrReplaced], or nil.
func (s *Source[T]) drained() func(context.Context) (bool, error) {
	var last uint64
	var empty time.Time // since when the consumer has had nothing more
	var wait time.Duration
	known := false
	return func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		if !known {
			stream, err := s.js.Stream(ctx, s.cons.CachedInfo().Stream)
			if err != nil {
				return false, nil // fetching fails, too, and says more
			}
			if last, known = stream.CachedInfo().State.LastSeq, true; stream.CachedInfo().Config.Replicas > 1 {
				wait = behind // the server that leads the consumer may not have all yet
			}
		}
		if err := s.held.same.ask(ctx); err != nil {
			if !errors.Is(err, ErrReplaced) {
				err = nil // as above
			}
			return false, err
		}
		info, err := s.cons.Info(ctx)
		switch {
		case err != nil:
			return false, nil
		case info.AckFloor.Stream >= last:
			return true, nil
		case info.NumPending > 0 || info.NumAckPending > 0:
			empty = time.Time{}
			return false, nil
		case empty.IsZero():
			empty = time.Now()
		}
		return time.Since(empty) >= wait, nil
	}
}

// Done implements [pipeline.Numbered]: it acknowledges messages, and waits until the server has confirmed that. If the server confirms none for
// a minute it fails.
func (s *Source[T]) Done(ctx context.Context, positions []uint64) error {
	return s.held.settle(ctx, positions)
}

// Release implements [pipeline.Numbered]: it gives messages back, so that others take them at once.
func (s *Source[T]) Release(positions []uint64) {
	s.held.giveBack(positions...)
}

// apiTimeout bounds a request to the server.
const apiTimeout = 5 * time.Second

// patience is how long the server may be away, or refuse, before an acknowledgement or a publication fails.
const patience = time.Minute

// backOff waits after so many failures in a row, or until ctx ends.
func backOff(ctx context.Context, failed int) {
	sleep(ctx, min(20*time.Millisecond<<min(failed, 5), 500*time.Millisecond))
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
