package natsipc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// Service says how a server appears on NATS.
type Service struct {
	// Name is what callers call it by, of ASCII letters, digits, - and _.
	Name string
	// Version is a semantic version, which discovery shows, such as 1.2.0.
	Version string
	// Description and Metadata are for discovery.
	Description string
	Metadata    map[string]string
	// Prefix is the first part of all subjects; "" stands for [DefaultPrefix].
	Prefix string
	// QueueGroup is the group of those that share the calls; "" stands for that of micro services, q.
	QueueGroup string
	// Methods are those that discovery shows, for [Forward]. A request for one of them with the number of another method is refused; without
	// Methods nobody can tell. [Serve] has those of its server.
	Methods []worker.HandledMethod
	// Concurrency is how many calls run at once; 0 stands for 1000. Others fail with CodeResourceExhausted. With [Serve] a call runs until its
	// handler has returned, also if its caller has given up.
	Concurrency int
	// Streams is how many streams are open at once; 0 stands for 1000. Others fail with CodeResourceExhausted.
	Streams int
	// MaxMessage is the size of the largest request, response and item in bytes; 0 stands for 64 MiB.
	MaxMessage int
	// StreamWindow is how many bytes of a stream the service takes that its handler has not read, [MinStreamWindow] to [MaxStreamWindow]; 0 stands for 1 MiB.
	// As much once more is on the way between NATS and the handler, or, with [Forward], what the windows of its caller say. [WithStreamWindow] is the caller's.
	StreamWindow int
	// Grace is how long calls may run on when the service ends; 0 stands for that of worker.WithGrace.
	Grace time.Duration
	// Logger is told what no error reports; nil stands for slog.Default().
	Logger *slog.Logger
}

// complete returns s with defaults, or an error for what cannot be.
func (s Service) complete() (Service, error) {
	if !validToken(s.Name) {
		return s, fmt.Errorf("tandem: the service %q: its name needs ASCII letters, digits, - and _", s.Name)
	}
	if s.Concurrency < 0 || s.Streams < 0 || s.MaxMessage < 0 || s.Grace < 0 {
		return s, fmt.Errorf("tandem: the service %q: a negative limit", s.Name)
	}
	if w := s.StreamWindow; w != 0 && (w < MinStreamWindow || w > MaxStreamWindow) {
		return s, fmt.Errorf("tandem: the service %q: a window of streams of %d bytes, allowed are %d to %d", s.Name, w, MinStreamWindow, MaxStreamWindow)
	}
	for field, value := range map[*string]string{&s.Prefix: DefaultPrefix, &s.QueueGroup: micro.DefaultQueueGroup, &s.Version: "0.0.0"} {
		if *field == "" {
			*field = value
		}
	}
	if !validToken(s.Prefix) {
		return s, fmt.Errorf("tandem: the prefix %q: it needs ASCII letters, digits, - and _", s.Prefix)
	}
	if s.Concurrency == 0 {
		s.Concurrency = 1000
	}
	if s.Streams == 0 {
		s.Streams = 1000
	}
	if s.MaxMessage == 0 {
		s.MaxMessage = drivers.DefaultMaxMessage
	}
	if s.StreamWindow == 0 {
		s.StreamWindow = flow.DefaultWindow
	}
	if s.Grace == 0 {
		s.Grace = drivers.DefaultTimeouts().Grace
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	return s, nil
}

// Serve answers calls that come over NATS with the handlers of a server, beside whatever else that serves. Any number of
// processes may serve the same service: NATS gives each call to one of them. It appears as a NATS micro service, with
// discovery and statistics.
//
// It returns nil when ctx has ended: then it takes no further calls, and waits for those that run, within the
// grace of svc. Then the contexts of their handlers end, and callers are told. It waits for what does not
// heed that, and for notifications that are handled, for the grace once more. It returns an error that wraps [ipc.ErrDisconnected] when the connection is closed, and
// ends the contexts of the handlers. While the connection is down they go on, and their answers are
// sent when it is back. The connection stays the user's.
//
// A handler finds with [ipc.PeerOf] this process, and calls nobody back: what worker.Host returns has no handlers. It may keep the request.
func Serve(ctx context.Context, nc *nats.Conn, server *worker.Server, svc Service) error {
	svc, err := svc.complete()
	if err != nil {
		return err
	}
	l := &locals{server: server, svc: svc, byCodec: make(map[string]*worker.LocalClient)}
	defer l.close()
	if _, err := l.caller(ipc.CBOR.Name()); err != nil {
		var mismatch *ipc.MismatchError
		if !errors.As(err, &mismatch) { // a server may demand another codec
			return err
		}
	}
	return serve(ctx, nc, svc, l.caller, server.Methods, true)
}

// Forward is [Serve] for what answers calls elsewhere: a pool of workers, or any other caller. Callers have to have the same codec.
func Forward(ctx context.Context, nc *nats.Conn, to ipc.Caller, svc Service) error {
	svc, err := svc.complete()
	if err != nil {
		return err
	}
	var methods func() []worker.HandledMethod
	if len(svc.Methods) > 0 {
		methods = func() []worker.HandledMethod { return svc.Methods }
	}
	return serve(ctx, nc, svc, func(codec string) (ipc.Caller, error) {
		if own := to.Codec().Name(); own != codec {
			return nil, &ipc.MismatchError{What: "codec", Local: own, Remote: codec}
		}
		return to, nil
	}, methods, false)
}

// locals are the callers of a server of this process: one for each codec.
type locals struct {
	server *worker.Server
	svc    Service

	mu      sync.Mutex
	closed  bool
	byCodec map[string]*worker.LocalClient
}

func (l *locals) caller(codec string) (ipc.Caller, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ipc.ErrClosed
	}
	if c := l.byCodec[codec]; c != nil {
		return c, nil
	}
	chosen, ok := ipc.FindCodec(codec)
	if !ok || chosen == ipc.Fixed {
		return nil, &ipc.MismatchError{What: "codec", Local: "cbor, json or raw", Remote: codec}
	}
	// Each is told by the calls themselves how long they may take.
	c, err := worker.Direct(l.server, worker.WithCodec(chosen), worker.WithMaxMessage(max(l.svc.MaxMessage, minMessage)), worker.WithStreamWindow(l.svc.StreamWindow), worker.WithCallTimeout(0),
		worker.WithGrace(l.svc.Grace), worker.WithLogger(l.svc.Logger))
	if err != nil {
		return nil, err
	}
	l.byCodec[codec] = c
	return c, nil
}

// minMessage is the least that worker.WithMaxMessage takes.
const minMessage = 4 << 10

// close closes them side by side, since each may wait for what it handles.
func (l *locals) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range l.byCodec {
		all.Go(func() { _ = c.Close() })
	}
	all.Wait()
}

// host is a service on NATS.
type host struct {
	svc     Service
	nc      *nats.Conn
	caller  func(codec string) (ipc.Caller, error)
	direct  bool // callers make a call once, and keep nothing of it when it has returned
	id      string
	base    string // of the subjects, with a dot at its end
	ctx     context.Context
	cancel  context.CancelCauseFunc
	names   methodNames
	places  chan struct{} // has as many elements as calls run
	running sync.WaitGroup
	stats   stats

	requests chan request // from received to a goroutine that waits for one
	idle     atomic.Int32 // goroutines that wait, or are about to

	answering atomic.Int32 // calls whose answers are being sent

	port     *flow.Port
	streams  chan struct{} // has as many elements as streams are open
	large    chan struct{} // has as many elements as large requests are in memory
	draining chan struct{} // closed when the service takes nothing further

	mu    sync.Mutex
	over  bool // nothing more is taken
	calls map[uint64]*serving
	timer *time.Timer // of heartbeats, nil before the first call
	next  time.Time   // when it is due, zero if it is not set
}

// enter counts a call or stream that was taken, whose end is running.Done, unless the service is over.
func (h *host) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.running.Add(1)
	}
	return !h.over
}

// left has nothing more taken, and returns a channel that is closed when nothing runs any more.
func (h *host) left() <-chan struct{} {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	left := make(chan struct{})
	go func() {
		h.running.Wait()
		close(left)
	}()
	return left
}

// leaveTime is how long handlers have to return whose contexts have ended with the service. Their callers are told then.
const leaveTime = 100 * time.Millisecond

// endHandlers ends the contexts of the handlers, and waits until ended is closed, but not for handlers that do not heed that.
func (h *host) endHandlers(ended <-chan struct{}) {
	h.cancel(errEnding)
	wait := time.NewTimer(leaveTime)
	defer wait.Stop()
	select {
	case <-ended:
		return
	case <-wait.C:
	}
	h.mu.Lock()
	calls := slices.Collect(maps.Values(h.calls))
	h.mu.Unlock()
	for _, s := range calls {
		if s.end() && !h.nc.IsClosed() {
			kind, payload := h.failure(errEnding, new(callHeader), 0)
			h.answer(s.reply, &answer{kind: kind, payload: payload})
		}
	}
	h.port.End(gone(errEnding))
}

// errEnding is why the handlers end that outlast a service.
var errEnding = errors.New("tandem: the service ends")

// maxPending is how many bytes of messages that came wait at most for each subscription of a service to look at them. What comes beyond that is dropped, and its
// sender misses heartbeats.
const maxPending = 256 << 20

// serve is Serve. caller returns what calls with a codec are made with, and methods, if it is not nil, lists the methods. direct says that callers are of [worker.Direct]:
// they make a call once, and keep nothing of it when it has returned.
func serve(ctx context.Context, nc *nats.Conn, svc Service, caller func(string) (ipc.Caller, error), methods func() []worker.HandledMethod, direct bool) error {
	if nc == nil {
		return errors.New("tandem: serve with a nil connection to NATS")
	}
	h := &host{
		svc: svc, nc: nc, caller: caller, direct: direct, id: nuid.Next(), base: svc.Prefix + "." + svc.Name + ".",
		places: make(chan struct{}, svc.Concurrency), calls: make(map[uint64]*serving), requests: make(chan request),
		names: methodNames{list: methods}, streams: make(chan struct{}, svc.Streams), large: make(chan struct{}, largeAtOnce), draining: make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer h.cancel(errEnding)
	closed := nc.StatusChanged(nats.CLOSED)
	defer nc.RemoveStatusListener(closed)

	var subs []*nats.Subscription
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe() // the connection may be closed
		}
	}()
	subscribe := func(subject, queue string, f nats.MsgHandler) (*nats.Subscription, error) {
		s, err := nc.QueueSubscribe(subject, queue, f)
		if err != nil {
			return nil, fmt.Errorf("tandem: serve %q over NATS: %w", svc.Name, err)
		}
		subs = append(subs, s)
		return s, s.SetPendingLimits(-1, maxPending) // no handler of a message waits, so none is dropped unless too many come
	}
	if _, err := subscribe(h.base+tokenControl+"."+h.id+".*", "", h.controlled); err != nil {
		return err
	}
	if err := h.monitor(subscribe); err != nil {
		return err
	}
	port, err := flow.Listen(nc, h.base+tokenFlow+"."+h.id, flow.Config{Flows: svc.Streams + svc.Concurrency, MaxItem: svc.MaxMessage, Window: int64(svc.StreamWindow)})
	if err != nil {
		return err
	}
	defer port.Close(ipc.ErrClosed)
	h.port = port
	var subscriptions [2]*nats.Subscription
	drained := make(chan struct{}, len(subscriptions))
	for i, r := range []struct {
		token string
		f     nats.MsgHandler
	}{{tokenStream, h.opened}, {tokenCall, h.received}} {
		if subscriptions[i], err = subscribe(h.base+r.token+".>", svc.QueueGroup, r.f); err != nil {
			return err
		}
		subscriptions[i].SetClosedHandler(func(string) { drained <- struct{}{} })
	}

	select {
	case <-ctx.Done():
	case <-closed:
	}
	if nc.IsClosed() {
		h.endHandlers(h.left())
		return fmt.Errorf("tandem: the connection to NATS is closed: %w", ipc.ErrDisconnected)
	}
	grace := time.NewTimer(svc.Grace)
	defer grace.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		draining := 0
		for _, s := range subscriptions {
			if s.Drain() == nil {
				draining++
			}
		}
		for ; draining > 0; draining-- {
			select {
			case <-drained:
			case <-h.ctx.Done():
			}
		}
		close(h.draining)
		<-h.left()
	}()
	select {
	case <-ended:
	case <-grace.C:
		h.endHandlers(ended)
	}
	flush, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	_ = nc.FlushWithContext(flush) // the last answers, if NATS can be reached
	return nil
}
