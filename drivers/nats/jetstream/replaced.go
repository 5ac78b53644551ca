package jetipc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// ErrReplaced is the end of a [Subscription] or of a run of a [Source] whose stream is not the one that it was: it was made anew by the same name, or its server
// has lost records that it had confirmed, by a power failure say. Numbers, and positions, then stand for other records
// than before, so nothing says what is missing. It is looked at when the connection was made anew, when the consumer is gone or silent, and before an
// acknowledgement if no request would have told of that. Open again, or make a new source.
var ErrReplaced = errors.New("the stream was made anew, or has lost records that it had confirmed: its numbers are those of other records now")

// identity tells a stream from another one of the same name.
type identity struct {
	js      natsjs.JetStream
	stream  string
	created time.Time
}

// behind is how long a stream may be behind what it had come to, since another server leads it now, say.
const behind = 3 * time.Second

// check returns [ErrReplaced] if the stream is another one, or has not come to the record of number least, or has got the one of number seq at
// another time than at, unless seq is 0.
func (i *identity) check(ctx context.Context, least, seq uint64, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	for start := time.Now(); ; sleep(ctx, 100*time.Millisecond) {
		stream, err := i.js.Stream(ctx, i.stream)
		if err != nil {
			return err
		}
		switch info := stream.CachedInfo(); {
		case !info.Created.Equal(i.created):
			return fmt.Errorf("%w: it was made at %v, and not at %v", ErrReplaced, info.Created, i.created)
		case info.State.LastSeq < least && time.Since(start) > behind:
			return fmt.Errorf("%w: it has come to record %d, and %d was received", ErrReplaced, info.State.LastSeq, least)
		case info.State.LastSeq < least:
			continue
		case seq == 0:
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		m, err := stream.GetMsg(ctx, seq)
		if err == nil && !m.Time.Equal(at) {
			return fmt.Errorf("%w: it has got record %d at %v, and not at %v", ErrReplaced, seq, m.Time, at)
		}
		return nil // or the record is gone, or this user may not ask for it
	}
}

// guard knows whether a stream is still the one that it was.
type guard struct {
	identity
	sample func() (seq uint64, at time.Time) // a record that was received, and when the stream has got it; 0 if there is none

	mu         sync.Mutex
	highest    uint64 // number of the records that came
	doubts     int
	settled    int       // so many of the doubts are
	reconnects uint64    // of the connection, when they were
	asked      time.Time // when they were
	watching   int       // requests that the server ends when the consumer is deleted
	replaced   bool
}

// saw notes the number of a record that came.
func (g *guard) saw(seq uint64) {
	g.mu.Lock()
	g.highest = max(g.highest, seq)
	g.mu.Unlock()
}

// doubt makes the server be asked again.
func (g *guard) doubt() {
	g.mu.Lock()
	g.doubts++
	g.mu.Unlock()
}

// watch counts requests. While there is none, the stream can be replaced without notice.
func (g *guard) watch(n int) {
	g.mu.Lock()
	g.watching += n
	g.mu.Unlock()
}

// known reports whether there is no doubt.
func (g *guard) known() bool {
	reconnects := g.js.Conn().Stats().Reconnects
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.settled == g.doubts && g.reconnects == reconnects && !g.replaced && (g.watching > 0 || time.Since(g.asked) < time.Second)
}

// broken says that the stream is another one.
func (g *guard) broken() {
	g.mu.Lock()
	g.replaced = true
	g.mu.Unlock()
}

// ask asks the server once, if there is doubt: for the first time, after the connection was made anew, after doubt, and when nothing would have
// told of a deletion.
func (g *guard) ask(ctx context.Context) error {
	if g.known() {
		return nil
	}
	now, reconnects := time.Now(), g.js.Conn().Stats().Reconnects
	seq, at := g.sample()
	g.mu.Lock()
	doubts, least, replaced := g.doubts, g.highest, g.replaced
	g.mu.Unlock()
	if replaced {
		return ErrReplaced
	}
	if err := g.check(ctx, least, seq, at); err != nil {
		if errors.Is(err, ErrReplaced) {
			g.broken()
		}
		return err
	}
	g.mu.Lock()
	g.settled, g.reconnects, g.asked = doubts, reconnects, now
	g.mu.Unlock()
	return nil
}

// sure asks until the server has an answer.
func (g *guard) sure(ctx context.Context) error {
	for tries, missing := 0, 0; ; tries++ {
		err := g.ask(ctx)
		if missing++; !gone(err) {
			missing = 0
		}
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, ErrReplaced), missing >= notThere:
			return err
		case g.js.Conn().IsClosed():
			return nats.ErrConnectionClosed
		}
		backOff(ctx, tries)
	}
}
