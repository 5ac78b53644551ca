package engine

import (
	"context"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Metadata is rare, so whatever has some keeps it behind a pointer that is nil otherwise:
// a frame, a call that has its answer, the context of a handler.

// metaOf returns the metadata of a request for its frame, nil if there is none. It fails if
// that cannot be sent.
func metaOf(inv *ipc.Invocation) (*drivers.Metadata, error) {
	if len(inv.Metadata) == 0 {
		return nil, nil
	}
	if err := inv.Metadata.Check(); err != nil {
		return nil, err
	}
	return drivers.NewMetadata(inv.Metadata, nil), nil
}

// deliver gives the metadata of an answer, which may be nil, to whoever made the call.
func deliver(meta *drivers.Metadata, inv *ipc.Invocation) {
	if inv.Header == nil && inv.Trailer == nil {
		return
	}
	// If there is none, there may be some of an attempt before.
	if inv.Header != nil {
		*inv.Header = meta.Header()
	}
	if inv.Trailer != nil {
		*inv.Trailer = meta.Trailer()
	}
}

// exchange is the metadata of a request and of its answer, as the context of the handler
// has it.
type exchange struct {
	request ipc.Metadata
	caller  context.Context // of a caller in this process, or nil: see direct.go

	mu              sync.Mutex
	header, trailer ipc.Metadata // of the answer
	// frozen is both for a frame, nil if there is none, or when they have changed.
	frozen *drivers.Metadata
}

var _ ipc.Incoming = (*requestContext)(nil)

// Metadata implements [ipc.Incoming].
func (c *requestContext) Metadata() ipc.Metadata {
	if x := c.exchange.Load(); x != nil {
		return x.request
	}
	return nil
}

// Peer implements [ipc.Incoming].
func (c *requestContext) Peer() ipc.Peer { return c.session.peer }

// AddHeader implements [ipc.Incoming].
func (c *requestContext) AddHeader(md ipc.Metadata) error {
	return c.add(md, func(x *exchange) *ipc.Metadata { return &x.header })
}

// AddTrailer implements [ipc.Incoming].
func (c *requestContext) AddTrailer(md ipc.Metadata) error {
	return c.add(md, func(x *exchange) *ipc.Metadata { return &x.trailer })
}

var errAnswered = ipc.Errorf(ipc.CodeFailedPrecondition, "tandem: header or trailer set when the handler has ended, or nobody waits for its answer")

func (c *requestContext) add(md ipc.Metadata, part func(*exchange) *ipc.Metadata) error {
	if c.Err() != nil {
		return errAnswered
	}
	x := c.exchange.Load()
	if x == nil {
		x = new(exchange)
		if !c.exchange.CompareAndSwap(nil, x) {
			x = c.exchange.Load()
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	to := part(x)
	sum := append((*to)[:len(*to):len(*to)], md...) // never changes what a frame has
	if err := sum.Check(); err != nil {
		return err
	}
	*to, x.frozen = sum, nil
	return nil
}

// answerMeta returns the metadata of the answer, nil if there is none. It returns the same
// until that changes.
func (c *requestContext) answerMeta() *drivers.Metadata {
	if x := c.exchange.Load(); x != nil {
		return x.freeze()
	}
	return nil
}

func (x *exchange) freeze() *drivers.Metadata {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.frozen == nil && len(x.header)+len(x.trailer) > 0 {
		x.frozen = drivers.NewMetadata(x.header, x.trailer)
	}
	return x.frozen
}

// peerOf returns who is at the other end of a link.
func peerOf(link drivers.Link) ipc.Peer {
	hello := link.Peer()
	peer := ipc.Peer{PID: hello.PID, UID: -1, GID: -1, Driver: hello.Driver}
	if l, ok := link.(drivers.Identifier); ok {
		c := l.PeerCredentials()
		peer.UID, peer.GID = c.UID, c.GID
		if c.PID != 0 {
			peer.PID = c.PID
		}
	}
	return peer
}

// Peer returns who is at the other end.
func (s *Session) Peer() ipc.Peer { return s.peer }
