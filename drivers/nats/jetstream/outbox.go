package jetipc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
)

const (
	sweepEvery = 50 * time.Millisecond
	answerWait = 2 * time.Second // after which a message is published again
)

// outbox is messages that were published and that their stream has not confirmed.
type outbox struct {
	nc       *nats.Conn
	inbox    string
	sub      *nats.Subscription
	count    int
	bytes    int
	patience time.Duration
	forever  bool

	mu       sync.Mutex
	moved    sync.Cond
	pending  map[uint64]*posting
	low      uint64 // all before it are confirmed
	next     uint64
	err      error // why it takes no more
	sweeping bool
	// reconnects is how often the connection had been made anew when the last sweep was: what was published before that, and is not
	// confirmed, may be lost.
	reconnects uint64
	SinkStats
}

// posting is a message in an outbox.
type posting struct {
	number uint64
	msg    *nats.Msg
	size   int
	until  time.Time // it is given up then
	due    time.Time // it is published again then
	tries  int
	why    error // what the last attempt was answered with
}

func newOutbox(nc *nats.Conn, o *sinkOptions) (*outbox, error) {
	b := &outbox{nc: nc, inbox: nc.NewInbox() + ".", count: o.count, bytes: o.bytes, patience: o.patience, forever: o.forever, pending: make(map[uint64]*posting), reconnects: nc.Stats().Reconnects}
	b.moved.L = &b.mu
	var err error
	if b.sub, err = nc.Subscribe(b.inbox+"*", b.answered); err != nil {
		return nil, err
	}
	return b, b.sub.SetPendingLimits(-1, -1) // what comes is bounded by what is in flight
}

// wait waits until ok returns true. b.mu is held.
func (b *outbox) wait(ctx context.Context, ok func() bool) error {
	if b.err == nil && !ok() {
		defer context.AfterFunc(ctx, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.moved.Broadcast()
		})()
	}
	for {
		switch {
		case b.err != nil:
			return b.err
		case ok():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		b.moved.Wait()
	}
}

// publish publishes a message when there is room.
func (b *outbox) publish(ctx context.Context, m *nats.Msg) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := m.Size()
	err := b.wait(ctx, func() bool {
		return len(b.pending) == 0 || len(b.pending) < b.count && b.InFlightBytes+size <= b.bytes
	})
	if err != nil {
		return err
	}
	now := time.Now()
	p := &posting{number: b.next, msg: m, size: size, until: now.Add(b.patience)}
	m.Reply = b.inbox + strconv.FormatUint(p.number, 36)
	b.next++
	b.pending[p.number] = p
	b.InFlightBytes += size
	if !b.sweeping {
		b.sweeping = true
		time.AfterFunc(sweepEvery, b.sweep)
	}
	return b.send(p, now)
}

// send publishes a message, or leaves that to a sweep. b.mu is held.
func (b *outbox) send(p *posting, now time.Time) error {
	p.due = now
	if !b.nc.IsConnected() {
		return nil // what would be buffered might arrive when nobody knows of it any more
	}
	err := b.nc.PublishMsg(p.msg)
	switch {
	case err == nil:
		p.due = now.Add(answerWait)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrHeadersNotSupported), errors.Is(err, nats.ErrBadSubject):
		return b.fail(err)
	default:
		p.why = err
	}
	return nil
}

// sweep publishes again what is due, as long as there is anything.
func (b *outbox) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	reconnects := b.nc.Stats().Reconnects
	again := reconnects != b.reconnects
	b.reconnects = reconnects
	var due []*posting
	for _, p := range b.pending {
		switch {
		case now.After(p.until):
			_ = b.fail(fmt.Errorf("a message was not confirmed for %v, published %d times: %w", b.patience, p.tries+1, cmp.Or(p.why, errUnconfirmed)))
			return
		case again, !now.Before(p.due):
			due = append(due, p)
		}
	}
	if b.nc.IsClosed() && b.err == nil {
		_ = b.fail(nats.ErrConnectionClosed)
	}
	if b.sweeping = b.err == nil && len(b.pending) > 0; !b.sweeping {
		return
	}
	time.AfterFunc(sweepEvery, b.sweep)
	if !b.nc.IsConnected() {
		return
	}
	slices.SortFunc(due, func(p, q *posting) int { return cmp.Compare(p.number, q.number) })
	for _, p := range due {
		p.tries++
		b.Again++
		if b.send(p, now) != nil {
			return
		}
	}
}

// answered takes an answer of the server.
func (b *outbox) answered(m *nats.Msg) {
	number, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, b.inbox), 36, 64)
	if err != nil {
		return
	}
	doubled, again, err := b.judge(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pending[number]
	switch {
	case p == nil: // it was published twice, and the first answer was late
		return
	case again:
		p.why = err
		p.due = time.Now().Add(min(sweepEvery<<min(p.tries, 5), time.Second))
		return
	case err != nil:
		_ = b.fail(fmt.Errorf("the stream refuses a message: %w", err))
		return
	}
	b.Stored++
	if doubled {
		b.Doubled++
	}
	b.InFlightBytes -= p.size
	delete(b.pending, number)
	for b.low < b.next && b.pending[b.low] == nil {
		b.low++
	}
	b.moved.Broadcast()
}

// The server's error codes that a sink knows what to do with.
const (
	codeAccountFull = 10002
	codeNotLeader   = 10009
	codeWrongLast   = 10071
	codeConflict    = 10158 // another message with the id is on its way
	codeConflictToo = 10164 // or with the subject
)

// passes reports whether an error of the server passes by itself: it is full, or being restarted, or another one leads now.
func passes(e *natsjs.APIError) bool {
	return e.Code >= 500 || e.ErrorCode == codeAccountFull || e.ErrorCode == codeNotLeader || e.ErrorCode == codeConflict || e.ErrorCode == codeConflictToo
}

// judge takes an answer apart. again says that the message may be stored if it is published again.
func (b *outbox) judge(m *nats.Msg) (doubled, again bool, err error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return false, true, nats.ErrNoResponders
	}
	var ack struct {
		Stream    string           `json:"stream"`
		Seq       uint64           `json:"seq"`
		Duplicate bool             `json:"duplicate"`
		Error     *natsjs.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return false, false, fmt.Errorf("%w: an acknowledgement of %d bytes: %w", ipc.ErrProtocol, len(m.Data), err)
	}
	if e := ack.Error; e != nil {
		switch {
		case b.forever && e.ErrorCode == codeWrongLast:
			return true, false, nil
		case passes(e):
			return false, true, e
		}
		return false, false, e
	}
	if ack.Stream == "" || ack.Seq == 0 {
		return false, false, fmt.Errorf("%w: an acknowledgement without a stream: %.100q", ipc.ErrProtocol, m.Data)
	}
	return ack.Duplicate, false, nil
}

// flush waits until all is confirmed that was published before.
func (b *outbox) flush(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	end := b.next
	return b.wait(ctx, func() bool { return b.low >= end })
}

// fail makes all fail with err, unless something else has, and returns why they do. b.mu is held.
func (b *outbox) fail(err error) error {
	if b.err == nil {
		b.err = err
	}
	clear(b.pending)
	b.low, b.InFlightBytes = b.next, 0
	b.moved.Broadcast()
	return b.err
}

func (b *outbox) stats() SinkStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.SinkStats
	s.InFlight = len(b.pending)
	return s
}

func (b *outbox) close() {
	_ = b.sub.Unsubscribe() // the connection may be closed
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.fail(ipc.ErrClosed)
}
