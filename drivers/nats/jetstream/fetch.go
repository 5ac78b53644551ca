package jetipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

// fetcher fetches messages by a consumer, one request after the other, and survives what its server does.
//
// All requests have the same inbox, and what comes there counts whenever it comes. natsjs.Consumer.Fetch has an inbox for each, and drops it when the
// server says that the request is over; a consumer with replicas says so before the messages come, which are then lost until AckWait.
type fetcher struct {
	nc    *nats.Conn
	cons  natsjs.Consumer
	next  string // the subject of requests
	name  string // of the consumer, for errors
	bytes int64
	limit natsjs.ConsumerConfig // of requests, where it has any
	held  *held
	// over, if there is one, is asked now and then whether that is the end.
	over func(context.Context) (bool, error)

	queue  chan fetched
	room   chan struct{} // has a token when there is more room in the queue
	queued atomic.Int64  // bytes
	err    error         // why it has ended, when queue is closed

	missing   int    // how often the server has said in a row that there is no such consumer
	delivered uint64 // the number of the last message's delivery
	watching  bool   // the server has a request
}

// fetched is a message, and its sequence in the stream.
type fetched struct {
	*nats.Msg
	seq uint64
}

func newFetcher(js natsjs.JetStream, cons natsjs.Consumer, name string, messages, bytes int, held *held) *fetcher {
	info := cons.CachedInfo()
	return &fetcher{
		nc: js.Conn(), cons: cons, next: apiPrefix(js) + "CONSUMER.MSG.NEXT." + info.Stream + "." + info.Name, name: name,
		bytes: int64(bytes), limit: info.Config, held: held, queue: make(chan fetched, messages), room: make(chan struct{}, 1),
	}
}

// apiPrefix returns what the subjects of requests to JetStream begin with.
func apiPrefix(js natsjs.JetStream) string {
	switch o := js.Options(); {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	}
	return natsjs.DefaultAPIPrefix
}

// took says that a message was taken from the queue.
func (f *fetcher) took(m fetched) {
	f.queued.Add(-int64(len(m.Data)))
	select {
	case f.room <- struct{}{}:
	default:
	}
}

// A request ends after requestWait; the server says every heartbeat that it is there, and is missed after three.
const (
	requestWait = 30 * time.Second
	heartbeat   = time.Second
)

// run fetches until ctx ends, or it is the end, and closes the queue.
func (f *fetcher) run(ctx context.Context) {
	defer close(f.queue)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	var looks sync.WaitGroup
	if f.over != nil {
		looks.Go(func() {
			for over := false; ctx.Err() == nil && !over && failed == nil; {
				if over, failed = f.over(ctx); !over {
					sleep(ctx, 100*time.Millisecond)
				}
			}
			cancel()
		})
	}
	err := f.fetch(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	if looks.Wait(); err == nil {
		err = failed
	}
	if err != nil {
		f.err = fmt.Errorf("tandem: jetstream: %s: %w", f.name, err)
	}
}

// fetch asks for messages, and takes them, until ctx ends or there cannot be any more.
func (f *fetcher) fetch(ctx context.Context) error {
	inbox := f.nc.NewInbox()
	sub, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { f.watch(false); f.rest(ctx, sub) }()
	_ = sub.SetPendingLimits(-1, -1) // what comes is bounded by what is asked for
	expected, failed := 0, 0
	reconnects := f.nc.Stats().Reconnects
	for ctx.Err() == nil {
		if now := f.nc.Stats().Reconnects; now != reconnects {
			expected, reconnects = 0, now // the server has forgotten the request
		}
		if expected <= 0 {
			f.watch(false)
			if expected = f.hasRoom(); expected > 0 && f.limit.MaxRequestBatch > 0 {
				expected = min(expected, f.limit.MaxRequestBatch)
			}
			if expected == 0 {
				select {
				case <-f.room:
				case <-ctx.Done():
				}
				continue
			}
			if !f.nc.IsConnected() && !f.nc.IsClosed() {
				expected = 0 // or nats.go would keep one request after the other, and send them all
				sleep(ctx, 20*time.Millisecond)
				continue
			}
			if err := f.ask(inbox, expected); err != nil && f.nc.IsClosed() {
				return nats.ErrConnectionClosed
			}
			f.watch(true)
		}
		m, err := f.hear(ctx, sub)
		if err == nil {
			if came, left := status(m); came {
				expected--
				failed, f.missing = 0, 0
				if err := f.put(ctx, m); err != nil {
					return err
				}
				continue
			} else if err = problem(m); err == nil {
				expected -= left
				continue
			}
		}
		if expected = 0; ctx.Err() != nil {
			return nil
		}
		f.held.same.doubt()
		if failed++; f.nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		if err := f.hopeless(ctx, err); err != nil {
			return err
		}
		sleep(ctx, min(20*time.Millisecond<<min(failed, 6), time.Second))
	}
	return nil
}

// watch says whether the server has a request.
func (f *fetcher) watch(on bool) {
	if on == f.watching {
		return
	}
	n := 1
	if f.watching = on; !on {
		n = -1
	}
	f.held.same.watch(n)
}

// hasRoom returns how many messages to ask for, 0 if there is too little room.
func (f *fetcher) hasRoom() int {
	n := cap(f.queue) - len(f.queue)
	if n < (cap(f.queue)+3)/4 || f.queued.Load() > f.bytes/2 {
		return 0
	}
	return n
}

// ask asks for so many messages.
func (f *fetcher) ask(inbox string, n int) error {
	wait := requestWait
	if most := f.limit.MaxRequestExpires; most > 0 {
		wait = min(wait, most)
	}
	// A message that is larger than the limit would never come.
	bytes := max(f.bytes-f.queued.Load(), leastBytes(f.nc))
	if most := int64(f.limit.MaxRequestMaxBytes); most > 0 {
		bytes = min(bytes, most)
	}
	request, err := json.Marshal(map[string]int64{
		"batch": int64(n), "expires": int64(wait), "idle_heartbeat": int64(min(heartbeat, wait/3)), "max_bytes": bytes,
	})
	if err != nil {
		return err
	}
	return f.nc.PublishRequest(f.next, inbox, request)
}

// leastBytes is how many bytes a request has to ask for, so that any message can come.
func leastBytes(nc *nats.Conn) int64 { return nc.MaxPayload() + 64<<10 }

// hear returns what comes next, or that nothing comes.
func (f *fetcher) hear(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	if n, _, err := sub.Pending(); err == nil && n > 0 {
		return sub.NextMsgWithContext(ctx)
	}
	ctx, cancel := whileConnected(ctx, f.nc, 3*heartbeat)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// put puts a message into the queue, unless it is none of a stream, or is here already. It returns an error if the stream is another one than before.
func (f *fetcher) put(ctx context.Context, m *nats.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return nil
	}
	if meta.Sequence.Consumer <= f.delivered { // another consumer of the same name, or it has lost what it knew
		f.held.same.doubt()
	}
	f.delivered = meta.Sequence.Consumer
	if err := f.held.same.sure(ctx); err != nil {
		_ = f.nc.Publish(m.Reply, wordNak) // if it is lost, the server waits for AckWait
		return err
	}
	again, err := f.held.add(m, meta)
	if err != nil || again {
		return err
	}
	f.queued.Add(int64(len(m.Data)))
	f.queue <- fetched{m, meta.Sequence.Stream} // until the queue is read to its end
	return nil
}

// rest takes what has come, or is on its way, though nobody waits for it any more, so that it is given back at once.
func (f *fetcher) rest(ctx context.Context, sub *nats.Subscription) {
	if sub.Drain() == nil && f.nc.IsConnected() {
		_ = f.nc.FlushTimeout(2 * time.Second) // what comes later the server delivers again after AckWait
	}
	for {
		m, err := sub.NextMsg(time.Nanosecond)
		if errors.Is(err, nats.ErrNoResponders) { // which says nothing of what is behind it
			continue
		}
		if err != nil {
			return
		}
		if came, _ := status(m); came {
			_ = f.put(ctx, m) // or it is given back already
		}
	}
}

// status reports whether a message is one of the stream. If it is what the server says of a request, left is how many messages
// do not come for it.
func status(m *nats.Msg) (came bool, left int) {
	switch m.Header.Get("Status") {
	case "":
		return true, 0
	case "100": // a heartbeat
		return false, 0
	}
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil {
		left = 1 << 30 // none comes
	}
	return false, left
}

// errConsumer is why nothing comes.
var errConsumer = errors.New("the consumer does not answer")

// problem returns what is wrong if that is what the server says, and not just that a request is over.
func problem(m *nats.Msg) error {
	switch s, why := m.Header.Get("Status"), strings.ToLower(m.Header.Get("Description")); {
	case s == "503":
		return nats.ErrNoResponders
	case s == "400":
		return natsjs.ErrBadRequest
	case s == "409" && strings.Contains(why, "consumer deleted"):
		return natsjs.ErrConsumerDeleted
	case s == "409" && strings.Contains(why, "exceeded maxrequest"), s == "409" && strings.Contains(why, "push based"):
		return fmt.Errorf("%w: %s", errChanged, why)
	case s == "409" && !strings.Contains(why, "batch completed") && !strings.Contains(why, "maxbytes"):
		return fmt.Errorf("%w: %s", errConsumer, why) // another server leads it, say
	}
	return nil
}

// errChanged is the end of a consumer that was configured anew, and takes no such requests any more.
var errChanged = errors.New("the consumer refuses the requests that it took before")

// notThere is how many times in a row a consumer may be missing, while a server starts say.
const notThere = 5

// hopeless returns why nothing can come any more, after err, or nil if something can.
func (f *fetcher) hopeless(ctx context.Context, err error) error {
	if errors.Is(err, natsjs.ErrConsumerDeleted) || errors.Is(err, natsjs.ErrBadRequest) || errors.Is(err, errChanged) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err = f.cons.Info(ctx); !gone(err) {
		f.missing = 0
		return nil
	}
	if f.missing++; f.missing < notThere {
		return nil
	}
	return err
}

// gone reports whether err says that there is no such consumer, or no such stream.
func gone(err error) bool {
	return errors.Is(err, natsjs.ErrConsumerNotFound) || errors.Is(err, natsjs.ErrStreamNotFound)
}

// whileConnected returns a context that ends after a time, and when the connection was made anew: what was asked for before may
// never be answered.
func whileConnected(ctx context.Context, nc *nats.Conn, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	status := nc.StatusChanged(nats.CONNECTED)
	go func() {
		select {
		case <-status:
			cancel()
		case <-ctx.Done():
		}
		nc.RemoveStatusListener(status)
	}()
	return ctx, cancel
}
