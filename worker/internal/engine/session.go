package engine

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/chain"
	"github.com/tandemipc/tandem/worker/internal/memory"
	"github.com/tandemipc/tandem/worker/internal/wait"
)

// The sides of a session. They are the lowest bit of the txs that a side makes.
const (
	Host   uint64 = 0
	Worker uint64 = 1
)

// Config is what a [Session] is made of.
type Config struct {
	Link  drivers.Link
	Side  uint64 // [Host] or [Worker]
	Codec ipc.Codec
	// Timeout bounds calls that have none of their own; 0 is no bound.
	Timeout time.Duration
	// AgreedTimeout is how long a request may take that does not say so itself. Both
	// sides know it from the start of the worker; 0 is no bound.
	AgreedTimeout time.Duration
	// MaxMessage is the largest message in bytes that this side accepts.
	MaxMessage int
	// Window is how many bytes of requests, and as many of notifications, this side takes
	// that it has not finished with: what its hello said.
	Window int
	// StreamWindow is how many bytes of items this side takes of a stream that its reader
	// has not read; 0 is the default.
	StreamWindow int
	Handlers     *Registry
	// Chain has the interceptors of this side, nil if there are none.
	Chain *chain.Chain
	Log   *slog.Logger
	// Arena, if set, returns what [ArenaOf] is to return.
	Arena func() *ipc.Arena
	// Forgotten is told of buffers and files that have come and that nobody releases; or nil.
	Forgotten *memory.Forgotten
	// Explain, if set, turns the error that ended the link into one that says more. It
	// may wait for a moment to do so.
	Explain func(*Session, error) error
	// Latest, if set, brings the error that ended the session up to date for later
	// calls.
	Latest func(error) error
	// Number is the number of the link, and Resumer knows the links after it, if calls
	// are to survive its end: see resume.go. Both are a host's.
	Number  uint64
	Resumer Resumer
}

// Session runs calls and handlers over one link, and ends when its link does. It is
// an [ipc.Caller], an [ipc.Starter] and an [ipc.Batcher], and safe for concurrent use.
type Session struct {
	// New sets these, and nobody changes them.
	config  Config
	link    drivers.Link
	peer    ipc.Peer
	claimer drivers.Claimer // the link, if it is one and no answer has to be kept
	shares  sharing         // what the link carries beside frames
	baseCtx context.Context // of handlers
	cancel  context.CancelFunc

	// Our calls. Callers write here, and the reader that delivers answers.
	calls              pendingCalls
	waiters            waiters
	sweeper            deadlineSweeper
	requestWindow      sendWindow
	notificationWindow sendWindow
	lateResponses      atomic.Uint64
	cancels            cancels

	streams      streams
	streamWindow int64
	maxPayload   int // of a frame, and of an item
	oneProcessor bool
	maxGathered  int // of items that are sent together

	// Reading. The goroutine that holds the reader state writes here.
	reader   reader
	watchdog watchdog

	// The peer's requests. Readers and handlers write here.
	handling sync.WaitGroup // goroutines that use the link: readers, handlers, senders
	inFlight inFlight       // handlers that do not run in the background reader
	tracked  tracked        // handlers that can be cancelled
	refusals refusals
	dropped  droppedNotifications
	replay   *Replay // a worker's, if hosts may come back
	number   uint64  // of the link: the host's own, or what the host has said

	// How it ends, and whether the peer lives.
	lifetime    lifetime
	quiet       atomic.Bool
	sendingPong atomic.Bool

	there *Session // at the other end of the link, if calls run its handlers: see direct.go
}

// lifetime is how a session ends.
type lifetime struct {
	failing     atomic.Bool   // set first
	done        chan struct{} // closed when err is set and all calls have failed
	err         error
	goodbye     chan struct{} // closed when the peer has said goodbye
	goodbyeOnce sync.Once
	draining    chan struct{} // closed when the session takes no further requests
	replaced    chan struct{} // closed by the owner when there is a later session
}

// New makes a session, which [Session.Open] starts.
func New(config Config) *Session {
	if config.Window == 0 {
		config.Window = drivers.DefaultWindow
	}
	s := &Session{config: config, link: config.Link, number: config.Number}
	s.lifetime.done, s.lifetime.goodbye, s.lifetime.replaced, s.lifetime.draining = make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.calls.side = config.Side
	s.sweeper.init()
	s.reader.requests.part, s.reader.notifications.part = creditPart(config.Window), creditPart(config.Window)
	s.peer = peerOf(config.Link)
	window := config.Link.Peer().Window
	s.requestWindow.init(window)
	s.notificationWindow.init(window)
	s.streamWindow = int64(max(config.StreamWindow, drivers.InitialStreamWindow))
	if config.StreamWindow == 0 {
		s.streamWindow = drivers.DefaultStreamWindow
	}
	s.streams.places.init(drivers.MaxStreams)
	s.streams.budget.size = int64(config.Window)
	s.maxPayload = maxPayload(config.MaxMessage, config.Link.Peer().MaxMessage)
	s.oneProcessor = runtime.GOMAXPROCS(0) == 1
	s.maxGathered = min(drivers.MaxGathered, s.maxPayload)
	s.claimer, _ = config.Link.(drivers.Claimer)
	s.shares = s.sharingOf(config.Link)
	s.baseCtx, s.cancel = context.WithCancel(context.Background())
	return s
}

// maxPayload is the largest payload of a frame, by what both sides accept; 0 is the default.
func maxPayload(ours, theirs int) int {
	largest := drivers.DefaultMaxMessage
	if ours > 0 {
		largest = ours
	}
	if theirs > 0 {
		largest = min(largest, theirs)
	}
	return largest - drivers.MaxHeader
}

// Open begins to read.
func (s *Session) Open() {
	s.link.Arm()
	s.startBackgroundReader(0, false)
}

// Fail ends the session, because its link has ended with err. Only the first call
// counts.
func (s *Session) Fail(err error) {
	if !s.lifetime.failing.CompareAndSwap(false, true) {
		return
	}
	if s.replay == nil || !errors.Is(err, ipc.ErrDisconnected) {
		s.cancel()
	}
	s.link.Shutdown()
	go func() {
		if s.config.Explain != nil {
			err = s.config.Explain(s, err)
		}
		s.lifetime.err = err
		s.calls.failAll(err)
		if keys := s.cancels.end(); len(keys) > 0 && s.resumable(err) {
			s.config.Resumer.Forget(s, keys...)
		}
		s.failStreams(err)
		s.dropped.report(s)
		close(s.lifetime.done)
	}()
}

// Close ends the session from this side, and frees the link when no handler uses it
// any more. It waits for that within the grace, or as long as it takes if grace is 0.
// Handlers that do not heed their context are left behind, with their link shut.
func (s *Session) Close(grace time.Duration) {
	s.Fail(ipc.ErrClosed)
	<-s.lifetime.done
	idle := make(chan struct{})
	go func() {
		s.Idle(forever, nil) // so that no caller reads any more, and
		for pause := minPoll; s.streams.reading.Load() > 0; pause = min(2*pause, maxPoll) {
			wait.Pause(pause) // nobody who waits for a stream
		}
		s.handling.Wait()
		s.link.Close()
		close(idle)
	}()
	if grace <= 0 {
		<-idle
		return
	}
	wait.Within(idle, grace, nil)
}

// CancelHandlers ends the contexts of all handlers, also of those that a session leaves
// running for a host that may come back.
func (s *Session) CancelHandlers() { s.cancel() }

// forever is longer than anything takes.
const forever = 100 * 365 * 24 * time.Hour

// Failing reports whether the session has ended or is about to.
func (s *Session) Failing() bool { return s.lifetime.failing.Load() }

// Done is closed when the session has ended and all its calls have failed.
func (s *Session) Done() <-chan struct{} { return s.lifetime.done }

// Err returns why the session has ended. It may be called when Done is closed.
func (s *Session) Err() error { return s.lifetime.err }

// Goodbye is closed when the peer has said goodbye.
func (s *Session) Goodbye() <-chan struct{} { return s.lifetime.goodbye }

// Replaced is closed by [Session.Replace].
func (s *Session) Replaced() <-chan struct{} { return s.lifetime.replaced }

// Replace says that there is a later session. It is called once.
func (s *Session) Replace() { close(s.lifetime.replaced) }

// LateResponses returns how many answers came after their callers had given up.
func (s *Session) LateResponses() uint64 { return s.lateResponses.Load() }

// Idle waits until no call and none of our streams is pending, for d at most, or until stop
// is closed. It returns true if none was pending. It looks now and then, so that calls need not
// be counted.
func (s *Session) Idle(d time.Duration, stop <-chan struct{}) bool {
	over, free := wait.After(d)
	defer free()
	for pause := minPoll; s.calls.pending()+s.streams.pending() > 0; pause = min(2*pause, maxPoll) {
		if wait.Within(stop, pause, nil) {
			return false
		}
		select {
		case <-over:
			return false
		default:
		}
	}
	return true
}

// Retire makes calls and streams that are begun later fail with err. Those that are pending go on. When none is
// ([Session.Idle]), none will be.
func (s *Session) Retire(err error) {
	s.calls.ended.CompareAndSwap(nil, &err) // SYNC: pairs with pendingCalls.register
	t := &s.streams
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended == nil {
		t.ended = err
	}
}

// EndLasting ends our streams that have no end of their own, with err.
func (s *Session) EndLasting(err error) {
	t := &s.streams
	t.mu.Lock()
	own := slices.DeleteFunc(t.live(), func(st *Stream) bool { return !st.lasting })
	t.mu.Unlock()
	for _, st := range own {
		st.abandon(err)
	}
}

// FailCalls fails the calls and our streams that are pending, and those that are made later,
// with err. The link goes on.
func (s *Session) FailCalls(err error) {
	s.calls.failAll(err)
	s.failOwnStreams(err)
}

// Codec returns the codec of methods that choose none. It makes a session an
// [ipc.Caller].
func (s *Session) Codec() ipc.Codec { return s.config.Codec }

// Link returns the link of the session.
func (s *Session) Link() drivers.Link { return s.link }

// Number returns the number of the link, 0 if it has none. On a worker it is the
// reader's to ask.
func (s *Session) Number() uint64 { return s.number }

// ended reports whether the session has ended, so that nothing that comes matters.
func (s *Session) ended() bool {
	select {
	case <-s.lifetime.done:
		return true
	default:
		return false
	}
}

// Quiet reports whether the peer has sent nothing since the last call of Quiet.
func (s *Session) Quiet() bool { return s.quiet.Swap(true) }

// heard notes for Quiet that something has come.
func (s *Session) heard() {
	if s.quiet.Load() {
		s.quiet.Store(false)
	}
}

// Ping asks the peer for a sign of life, if the frame can be sent within d. If it
// cannot, the peer does not read.
func (s *Session) Ping(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.baseCtx, d)
	defer cancel()
	_ = s.link.Send(ctx, &drivers.Frame{Kind: drivers.KindPing})
}

// pong answers a ping. However many pings come, one pong at a time is being sent, and
// it answers them all.
func (s *Session) pong() {
	if !s.sendingPong.CompareAndSwap(false, true) {
		return
	}
	// The reader must not block, so it does not send.
	s.handling.Go(func() {
		defer s.sendingPong.Store(false)
		_ = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindPong}) // the reader finds out if the link has ended
	})
}
