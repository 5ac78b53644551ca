package jetipc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// The words by which a consumer is told of a message.
var (
	wordAck      = []byte("+ACK")
	wordNak      = []byte("-NAK")
	wordProgress = []byte("+WPI")
)

// held is the messages that this process has and the server still waits for.
type held struct {
	nc    *nats.Conn
	cons  natsjs.Consumer
	same  guard         // asked before the server is told of a message: one of another stream would be done with
	name  string        // of the consumer, for errors
	every time.Duration // how often the server is told that they are worked on

	mu      sync.Mutex
	replies map[uint64]delivery // by the sequence
	done    map[uint64]struct{} // those of them that are done with, and the server has not confirmed that
	telling bool
}

// delivery is where the server is told of a message, and when the stream has got that.
type delivery struct {
	reply string
	at    time.Time
}

func (h *held) init(stream identity, cons natsjs.Consumer, name string, wait time.Duration) {
	h.same.identity, h.same.sample, h.same.doubts = stream, h.sample, 1
	h.nc, h.cons, h.name, h.every = stream.js.Conn(), cons, name, max(wait/4, 10*time.Millisecond)
	h.replies, h.done = make(map[uint64]delivery), make(map[uint64]struct{})
}

// add notes a message, and reports whether it is here already: the server has delivered it again. It returns [ErrReplaced] if the one that is here
// is another one.
func (h *held) add(m *nats.Msg, meta *nats.MsgMetadata) (again bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seq := meta.Sequence.Stream
	old, again := h.replies[seq]
	if again && !old.at.Equal(meta.Timestamp) {
		h.same.broken()
		return false, ErrReplaced
	}
	h.same.saw(seq)
	h.replies[seq] = delivery{m.Reply, meta.Timestamp}
	if !h.telling {
		h.telling = true
		time.AfterFunc(h.every, h.tell)
	}
	return again, nil
}

// sample returns the latest message that is held, and when the stream has got it.
func (h *held) sample() (seq uint64, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s, d := range h.replies {
		if s > seq {
			seq, at = s, d.at
		}
	}
	return seq, at
}

// tell tells the server now and then that the messages are worked on, while there are any.
func (h *held) tell() {
	h.mu.Lock()
	replies := make([]string, 0, len(h.replies))
	for _, d := range h.replies {
		replies = append(replies, d.reply)
	}
	if h.telling = len(replies) > 0 && !h.nc.IsClosed(); h.telling {
		time.AfterFunc(h.every, h.tell)
	}
	h.mu.Unlock()
	if !h.nc.IsConnected() {
		return // what would be buffered is old when it arrives
	}
	for _, reply := range replies {
		_ = h.nc.Publish(reply, wordProgress) // the next time tells again
	}
}

// giveBack makes the server deliver messages to somebody else at once, unless they are done with, or it cannot be reached: then it waits for AckWait.
func (h *held) giveBack(seqs ...uint64) {
	if len(seqs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	same := h.nc.IsConnected() && h.same.ask(ctx) == nil
	for _, seq := range seqs {
		h.giveBackOne(seq, same)
	}
}

func (h *held) giveBackOne(seq uint64, same bool) {
	h.mu.Lock()
	d, ok := h.replies[seq]
	word := wordNak
	if _, done := h.done[seq]; done {
		word = wordAck
	}
	delete(h.replies, seq)
	delete(h.done, seq)
	h.mu.Unlock()
	if ok && same {
		_ = h.nc.Publish(d.reply, word) // if it is lost, the server waits for AckWait
	}
}

// settle acknowledges messages until the server has confirmed all of them.
func (h *held) settle(ctx context.Context, seqs []uint64) error {
	left := make(map[uint64]struct{}, len(seqs))
	h.mu.Lock()
	for _, seq := range seqs {
		if _, ok := h.replies[seq]; ok {
			h.done[seq], left[seq] = struct{}{}, struct{}{}
		}
	}
	h.mu.Unlock()
	inbox := h.nc.NewInbox() + "."
	sub, err := h.nc.SubscribeSync(inbox + "*")
	if err != nil {
		return fmt.Errorf("tandem: jetstream: %s: acknowledge: %w", h.name, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	_ = sub.SetPendingLimits(-1, -1)         // what comes is bounded by what is asked for
	missing := 0
	for progress, round := time.Now(), 0; ; round++ {
		before := len(left)
		why := h.same.ask(ctx)
		if why == nil {
			why = h.ask(ctx, sub, inbox, left)
			if len(left) > 0 {
				if err := h.forgotten(ctx, left); err != nil {
					why = err
				}
			}
		}
		if missing++; !gone(why) {
			missing = 0
		}
		if len(left) < before {
			progress, round = time.Now(), 0
		}
		switch {
		case len(left) == 0:
			h.forget(seqs)
			return nil
		case h.nc.IsClosed():
			why = nats.ErrConnectionClosed
		case ctx.Err() != nil:
			why = ctx.Err()
		case missing < notThere && time.Since(progress) <= patience && !errors.Is(why, ErrReplaced):
			sleep(ctx, min(50*time.Millisecond<<min(round, 5), time.Second))
			continue
		}
		return fmt.Errorf("tandem: jetstream: %s: acknowledge %d messages: %w", h.name, len(left), why)
	}
}

// errUnconfirmed is why a message is not acknowledged, if nothing else is known.
var errUnconfirmed = errors.New("the server has not confirmed it")

// ask acknowledges messages, and takes those from left that the server confirms. It returns why some are left.
func (h *held) ask(ctx context.Context, sub *nats.Subscription, inbox string, left map[uint64]struct{}) (why error) {
	h.mu.Lock()
	replies := make(map[uint64]string, len(left))
	for seq := range left {
		replies[seq] = h.replies[seq].reply // of the latest delivery
	}
	h.mu.Unlock()
	ctx, cancel := whileConnected(ctx, h.nc, 2*time.Second)
	defer cancel()
	if !h.nc.IsConnected() {
		return nats.ErrDisconnected // what would be kept might come to another stream
	}
	for seq, reply := range replies {
		if reply == "" {
			delete(left, seq) // it was given back
			continue
		}
		if err := h.nc.PublishRequest(reply, inbox+strconv.FormatUint(seq, 10), wordAck); err != nil {
			return err
		}
	}
	why = errUnconfirmed
	for answers := len(left); answers > 0 && len(left) > 0; answers-- {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) { // there is no such consumer just now, or was not before
			why = err
			continue
		}
		if err != nil {
			return errors.Join(why, err)
		}
		if seq, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, inbox), 10, 64); err == nil {
			delete(left, seq)
		}
	}
	return why
}

// forgotten takes those from left of which the server no longer knows that it has delivered them, since it was killed: it
// does not take their acknowledgements, and delivers them again.
func (h *held) forgotten(ctx context.Context, left map[uint64]struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	info, err := h.cons.Info(ctx)
	if err != nil {
		return err
	}
	for seq := range left {
		if seq > info.Delivered.Stream {
			delete(left, seq)
		}
	}
	return nil
}

// forget forgets messages that are acknowledged.
func (h *held) forget(seqs []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, seq := range seqs {
		delete(h.replies, seq)
		delete(h.done, seq)
	}
}
