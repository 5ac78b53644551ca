package jetipc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// Sink writes the records of a pipeline to a JetStream stream, as a message each. Write returns when the records are on their
// way; Flush, which a run calls before it acknowledges anything, returns when the stream has stored all of them.
//
// Each message has an id, which is the sink's origin and the record's ID, such as "LINES.1790000000.17/3". The stream takes a message
// once in its window for duplicates (jetstream.StreamConfig.Duplicates, 2 minutes by default). So a record that comes again, since a process was killed or
// the server has forgotten an acknowledgement, is in the stream once if it comes again within that window. With [Forever]
// there is no such limit.
//
// A message that was not confirmed is published again: when its answer is late, when the server was away, and when
// the stream is full, until [Patience] ends. Then, and when the stream refuses it for good, the sink has failed: Write and Flush return that
// error from then on, so the run fails, has not acknowledged those records, and another run with a new sink takes them again. What is
// published again stands behind what was published meanwhile; with [InFlight] of one message there is no other.
//
// The methods may be called concurrently.
type Sink[T any] struct {
	sinkOptions
	subject string
	origin  string
	stream  string
	out     *outbox
}

var _ pipeline.Sink[[]byte] = (*Sink[[]byte])(nil)

// SinkOption is an option of [NewSink].
type SinkOption func(*sinkOptions)

type sinkOptions struct {
	codec    ipc.Codec
	count    int
	bytes    int
	patience time.Duration
	forever  bool
}

// Encode sets the codec of a sink's records. The default is [ipc.CBOR].
func Encode(c ipc.Codec) SinkOption { return func(o *sinkOptions) { o.codec = c } }

// InFlight bounds the messages that a sink has published and the stream has not confirmed: 1024, and 4 MiB of them, if it is not told
// otherwise. A single message may be larger. InFlight panics if one of them is not positive.
func InFlight(messages, bytes int) SinkOption {
	if messages < 1 || bytes < 1 {
		panic(fmt.Sprintf("tandem: jetstream: InFlight(%d, %d)", messages, bytes))
	}
	return func(o *sinkOptions) { o.count, o.bytes = messages, bytes }
}

// Patience sets for how long a sink publishes a message again that is not confirmed; the default is a minute. So long the server may be away,
// and the stream may be full: that makes the pipeline wait. The stream's window for duplicates has to be at least as long, unless
// the sink has [Forever]. Patience panics if d is not positive.
func Patience(d time.Duration) SinkOption {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: jetstream: Patience(%v)", d))
	}
	return func(o *sinkOptions) { o.patience = d }
}

// Forever makes a sink publish each record to a subject of its own, SUBJECT.ORIGIN.ID with dots in the ID, such as
// "words.LINES.1790000000.17.3", and expect that there is none yet. So a record that comes again is known for as long as the stream has its
// message, and not only in its window for duplicates. The server remembers each subject, which takes memory; the stream has to
// have the subject SUBJECT.>, and to keep its messages: a work queue forgets what was taken from it.
func Forever() SinkOption { return func(o *sinkOptions) { o.forever = true } }

// NewSink makes a sink. Exactly one stream has to have the subject. origin names what the ids count: [Source.Origin] of the
// source, together with a name of the pipeline if several write to the stream. Sinks of processes that share a
// source have the same origin. It is made of dots and what may stand between them in a subject. ctx is for NewSink alone.
//
// The connection should have nats.ReconnectBufSize(-1): otherwise it may publish a message long after the sink has given it up. The
// sink has to be closed.
func NewSink[T any](ctx context.Context, js natsjs.JetStream, subject, origin string, opts ...SinkOption) (*Sink[T], error) {
	s := &Sink[T]{subject: subject, origin: origin}
	s.sinkOptions = sinkOptions{codec: ipc.CBOR, count: 1024, bytes: 4 << 20, patience: patience}
	for _, opt := range opts {
		opt(&s.sinkOptions)
	}
	for what, name := range map[string]string{"subject": subject, "origin": origin} {
		if !validSubject(name) {
			return nil, fmt.Errorf("tandem: jetstream: sink: the %s %q cannot be a part of a subject", what, name)
		}
	}
	fail := func(err error) error {
		return fmt.Errorf("tandem: jetstream: sink %q: %w", subject, err)
	}
	name, err := js.StreamNameBySubject(ctx, s.subjectOf(pipeline.ID{}))
	if err != nil {
		return nil, fail(err)
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fail(err)
	}
	switch c := stream.CachedInfo().Config; {
	case c.NoAck:
		return nil, fail(fmt.Errorf("stream %q has NoAck: it confirms nothing", name))
	case !s.forever && c.Duplicates < s.patience:
		return nil, fail(fmt.Errorf("stream %q knows duplicates for %v, and the sink publishes again for %v: see jetipc.Patience", name, c.Duplicates, s.patience))
	}
	s.stream = name
	if s.out, err = newOutbox(js.Conn(), &s.sinkOptions); err != nil {
		return nil, fail(err)
	}
	return s, nil
}

// validSubject reports whether s is a subject without wildcards.
func validSubject(s string) bool {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '>' }) {
			return false
		}
	}
	return true
}

// subjectOf returns where a record is published to.
func (s *Sink[T]) subjectOf(id pipeline.ID) string {
	if !s.forever {
		return s.subject
	}
	return s.subject + "." + s.origin + "." + strings.ReplaceAll(id.String(), "/", ".")
}

// Write implements [pipeline.Sink]. It waits for room among the messages that are in flight, until ctx ends.
func (s *Sink[T]) Write(ctx context.Context, records []pipeline.Item[T]) error {
	for i := range records {
		m := nats.NewMsg(s.subjectOf(records[i].ID))
		m.Header[natsjs.MsgIDHeader] = []string{s.origin + "." + records[i].ID.String()}
		m.Header[natsjs.ExpectedStreamHeader] = []string{s.stream}
		if s.forever {
			m.Header[natsjs.ExpectedLastSubjSeqHeader] = []string{"0"}
		}
		var err error
		if m.Data, err = ipc.Marshal(s.codec, nil, records[i].Record); err != nil {
			return fmt.Errorf("tandem: jetstream: sink %q: encode record %v: %w", s.subject, records[i].ID, err)
		}
		if err := s.out.publish(ctx, m); err != nil {
			return fmt.Errorf("tandem: jetstream: sink %q: %w", s.subject, err)
		}
	}
	return nil
}

// Flush waits until the stream has stored all that was written before.
func (s *Sink[T]) Flush(ctx context.Context) error {
	if err := s.out.flush(ctx); err != nil {
		return fmt.Errorf("tandem: jetstream: sink %q: %w", s.subject, err)
	}
	return nil
}

// SinkStats is what a [Sink] has done.
type SinkStats struct {
	// Stored is how many messages the stream has confirmed, and Doubled how many of them it had already, of this sink or another
	// one, since an answer was lost, say.
	Stored, Doubled uint64
	// Again is how many times a message was published again.
	Again uint64
	// InFlight is how many messages are not confirmed, and InFlightBytes their bytes.
	InFlight, InFlightBytes int
}

// Stats returns what the sink has done so far.
func (s *Sink[T]) Stats() SinkStats { return s.out.stats() }

// Close gives up what is in flight, which was not acknowledged. Flush before is what a run does. The error is always nil.
func (s *Sink[T]) Close() error {
	s.out.close()
	return nil
}
