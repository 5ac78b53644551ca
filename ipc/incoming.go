package ipc

import (
	"context"
	"slices"
	"sync"
)

// Incoming is what the context of a handler knows of the request, or notification, that the
// handler is for. Package worker provides it, under [IncomingKey]; handlers use [MetadataOf],
// [PeerOf], [SetHeader] and [SetTrailer].
type Incoming interface {
	// Metadata came with the request.
	Metadata() Metadata
	// Peer has sent the request.
	Peer() Peer
	// AddHeader and AddTrailer add to the header and the trailer of the answer.
	AddHeader(Metadata) error
	AddTrailer(Metadata) error
}

// IncomingKey is the key under which the context of a handler has its [Incoming].
type IncomingKey struct{}

func incoming(ctx context.Context) Incoming {
	in, _ := ctx.Value(IncomingKey{}).(Incoming)
	return in
}

// MetadataOf returns the metadata of the request that a handler serves. ctx is the context
// of the handler, or derived from it; for any other the result is empty.
func MetadataOf(ctx context.Context) Metadata {
	if in := incoming(ctx); in != nil {
		return in.Metadata()
	}
	return nil
}

// Peer is the process at the other end of a link.
type Peer struct {
	// PID is its process id. For the client of a service it is what the system says, where the
	// system tells; for any other peer, and elsewhere, it is what the peer says itself: in a pid
	// namespace of its own a process has another id than outside.
	PID int
	// UID and GID are the ids of the user and the group that it belongs to: what the system says
	// of a host, of a service and of the client of one, and what a worker was started as. They
	// are -1 if they are not known.
	UID, GID int
	// Driver is the name of the driver of the link, such as "shm".
	Driver string
}

// PeerOf returns who has sent the request that a handler serves. ctx is the context of the
// handler, or derived from it; for any other the result is the zero Peer, and ok is false.
func PeerOf(ctx context.Context) (peer Peer, ok bool) {
	if in := incoming(ctx); in != nil {
		return in.Peer(), true
	}
	return Peer{}, false
}

// SetHeader adds metadata, alternating keys and values, to the header of the answer to the
// request that a handler serves. The caller gets it with [WithHeader], also if the handler
// fails. ctx is the context of the handler, or derived from it. SetHeader may be called more
// than once, by several goroutines, until the handler returns. What is set for a
// notification is dropped, since nothing answers it.
//
// SetHeader returns the error of [Metadata.Check], and then adds nothing, or an [*Error] of
// CodeFailedPrecondition if ctx is not that of a handler or the handler has ended. It panics
// if the last key has no value.
func SetHeader(ctx context.Context, keyValues ...string) error {
	md := Pairs(keyValues...)
	if in := incoming(ctx); in != nil {
		return in.AddHeader(md)
	}
	return errNoHandler
}

// SetTrailer is [SetHeader] for the trailer of the answer, which the caller gets with
// [WithTrailer]. The header of a stream comes with its first item, and the trailer with its
// end; those of any other answer come together.
func SetTrailer(ctx context.Context, keyValues ...string) error {
	md := Pairs(keyValues...)
	if in := incoming(ctx); in != nil {
		return in.AddTrailer(md)
	}
	return errNoHandler
}

var errNoHandler = Errorf(CodeFailedPrecondition, "tandem: header or trailer set with a context that is not that of a handler")

// Answer is the metadata that a function has set with [SetHeader] and [SetTrailer]. It is safe for
// concurrent use.
type Answer struct {
	request Metadata
	peer    Peer

	mu              sync.Mutex
	header, trailer Metadata
}

// NewIncomingContext returns a context in which [MetadataOf], [PeerOf], [SetHeader] and
// [SetTrailer] work as in a handler, and what they have set. It is for tests of handlers, and for
// callers that run handlers themselves.
func NewIncomingContext(ctx context.Context, request Metadata, peer Peer) (context.Context, *Answer) {
	a := &Answer{request: request, peer: peer}
	return context.WithValue(ctx, IncomingKey{}, Incoming(answering{a})), a
}

// Header returns the header of the answer.
func (a *Answer) Header() Metadata {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header
}

// Trailer returns the trailer of the answer.
func (a *Answer) Trailer() Metadata {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trailer
}

// answering is an [Answer] as an [Incoming].
type answering struct{ *Answer }

// Metadata implements [Incoming].
func (a answering) Metadata() Metadata { return a.request }

// Peer implements [Incoming].
func (a answering) Peer() Peer { return a.peer }

// AddHeader implements [Incoming].
func (a answering) AddHeader(md Metadata) error { return a.add(&a.header, md) }

// AddTrailer implements [Incoming].
func (a answering) AddTrailer(md Metadata) error { return a.add(&a.trailer, md) }

func (a answering) add(to *Metadata, md Metadata) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := append(slices.Clip(*to), md...)
	if err := sum.Check(); err != nil {
		return err
	}
	*to = sum
	return nil
}
