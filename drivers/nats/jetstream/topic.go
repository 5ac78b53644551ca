package jetipc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/tandemipc/tandem/ipc"
)

// Publisher publishes the records of a topic to a JetStream stream, which keeps them as long as its limits say, whoever
// subscribes. Any number of processes may publish. It is safe for concurrent use, and there is nothing to close.
//
// The number of a record is the sequence of its message. A record of a topic that is declared with [ipc.LatestBy]
// is published to SUBJECT.KEY, where KEY is the key if that is a string of ASCII letters, digits, - and _, and a hash of it otherwise.
type Publisher[T any] struct {
	js     natsjs.JetStream
	topic  *ipc.Topic[T]
	codec  ipc.Codec
	place  topicPlace
	window time.Duration
}

// NewPublisher makes a publisher. The stream has the subject, or SUBJECT.> if the topic has keys, and no others: so what
// is missing in its sequence is what it has lost. ctx is for NewPublisher alone.
func NewPublisher[T any](ctx context.Context, js natsjs.JetStream, subject string, topic *ipc.Topic[T]) (*Publisher[T], error) {
	place, config, err := findTopic(ctx, js, subject, topic.Info().Name, topic.Key() != nil)
	if err != nil {
		return nil, err
	}
	return &Publisher[T]{js: js, topic: topic, codec: topic.Codec(nil), place: place, window: config.Duplicates}, nil
}

// Publish publishes one record, and returns when the stream has stored it. While the server is away, or the stream is full, it tries again
// until ctx ends, but not longer than the stream knows duplicates (jetstream.StreamConfig.Duplicates), so the record is stored
// once. If Publish fails because a time was over, it may be stored nevertheless. Records that one goroutine
// publishes have that order.
//
// The error is an [*ipc.Error] of CodeInvalidArgument if the record cannot be encoded, ctx.Err(), or what NATS says.
func (p *Publisher[T]) Publish(ctx context.Context, v T) error {
	b, err := ipc.Marshal(p.codec, nil, v)
	if err != nil {
		return ipc.Errorf(ipc.CodeInvalidArgument, "encode a record of %q: %w", p.topic.Info().Name, err)
	}
	m := &nats.Msg{Subject: p.place.subject, Data: b}
	if key := p.topic.Key(); key != nil {
		token, err := keyToken(key(v))
		if err != nil {
			return ipc.Errorf(ipc.CodeInvalidArgument, "encode the key of a record of %q: %w", p.topic.Info().Name, err)
		}
		m.Subject += "." + token
	}
	id := nuid.Next()
	until := time.Now().Add(p.window - answerWait)
	for tries := 0; ; tries++ {
		if err := p.awaitConnection(ctx, until); err != nil {
			return fmt.Errorf("tandem: jetstream: publish a record of %q: %w", p.topic.Info().Name, err)
		}
		attempt, cancel := context.WithTimeout(ctx, answerWait)
		_, err = p.js.PublishMsg(attempt, m, natsjs.WithMsgID(id), natsjs.WithExpectStream(p.place.stream), natsjs.WithRetryAttempts(0))
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(until), !transient(err):
			return fmt.Errorf("tandem: jetstream: publish a record of %q: %w", p.topic.Info().Name, err)
		}
		sleep(ctx, min(sweepEvery<<min(tries, 5), time.Second))
	}
}

// awaitConnection waits until the connection is up. Otherwise nats.go would keep the record, and send it when the stream may not know
// any more that it has it.
func (p *Publisher[T]) awaitConnection(ctx context.Context, until time.Time) error {
	for nc := p.js.Conn(); !nc.IsConnected(); sleep(ctx, sweepEvery) {
		switch {
		case nc.IsClosed():
			return nats.ErrConnectionClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(until):
			return nats.ErrDisconnected
		}
	}
	return ctx.Err()
}

// transient reports whether a message may be stored if it is published again after err.
func transient(err error) bool {
	var api *natsjs.APIError
	if errors.As(err, &api) {
		return passes(api)
	}
	return !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrMaxPayload)
}

// keyToken returns what stands for a key in a subject.
func keyToken(key any) (string, error) {
	if s, ok := key.(string); ok && s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}) {
		return s, nil
	}
	b, err := ipc.Marshal(ipc.CBOR, nil, key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return "=" + base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// topicPlace says where a topic is kept.
type topicPlace struct {
	stream, subject string
}

// findTopic finds the stream of a topic.
func findTopic(ctx context.Context, js natsjs.JetStream, subject, topic string, keyed bool) (p topicPlace, c natsjs.StreamConfig, err error) {
	fail := func(err error) error {
		return fmt.Errorf("tandem: jetstream: topic %q at %q: %w", topic, subject, err)
	}
	if !validSubject(subject) {
		return p, c, fail(errors.New("this cannot be a part of a subject"))
	}
	p.subject = subject
	filter := subject
	if keyed {
		filter += ".>"
	}
	if p.stream, err = js.StreamNameBySubject(ctx, filter); err != nil {
		return p, c, fail(err)
	}
	stream, err := js.Stream(ctx, p.stream)
	if err != nil {
		return p, c, fail(err)
	}
	c = stream.CachedInfo().Config
	for _, s := range c.Subjects {
		if s != subject && !strings.HasPrefix(s, subject+".") {
			return p, c, fail(fmt.Errorf("stream %q has the subject %q, too: a topic needs a stream of its own", p.stream, s))
		}
	}
	switch {
	case len(c.Sources) > 0 || c.Mirror != nil:
		return p, c, fail(fmt.Errorf("stream %q gets messages of other streams: a topic needs one of its own", p.stream))
	case c.NoAck:
		return p, c, fail(fmt.Errorf("stream %q has NoAck: it confirms nothing", p.stream))
	case c.Retention != natsjs.LimitsPolicy:
		return p, c, fail(fmt.Errorf("stream %q has the retention %v: what one subscriber has received would be gone for the others", p.stream, c.Retention))
	}
	return p, c, nil
}
