package engine

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// pipeLink is a fake link whose peer is another one. It has room for all.
type pipeLink struct {
	*fakeLink
	peer *fakeLink
}

func (l pipeLink) Send(ctx context.Context, sent *drivers.Frame) error {
	f := *sent
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	if end != nil {
		return end
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f.Payload = append([]byte(nil), f.Payload...)
	l.peer.push(f)
	return nil
}

func (l pipeLink) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i := range frames {
		if err := l.Send(ctx, &frames[i]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// newSessionPair returns two sessions that talk to each other.
func newSessionPair(t *testing.T, reg *Registry) (host, worker *Session) {
	a, b := newFakeLink(), newFakeLink()
	a.volatile, b.volatile = true, true
	newSide := func(side uint64, l, peer *fakeLink) *Session {
		s := New(Config{
			Link: pipeLink{l, peer}, Side: side, Codec: ipc.CBOR, Timeout: time.Minute, AgreedTimeout: time.Minute,
			MaxMessage: 1 << 20, Handlers: reg, Log: slog.New(slog.DiscardHandler),
		})
		s.Open()
		t.Cleanup(func() { s.Close(0) })
		return s
	}
	return newSide(Host, a, b), newSide(Worker, b, a)
}

// unreturned returns what the peer of a session has not got back of what it has sent, by
// the session's own books.
func (s *Session) unreturned() (requests, notifications, open int64) {
	for !s.acquire(nil) {
		runtime.Gosched()
	}
	defer s.release(false)
	r, n := &s.reader.requests, &s.reader.notifications
	open = r.open - r.collected.Load() + n.open - n.collected.Load()
	return r.byReader + r.byOthers.Load(), n.byReader + n.byOthers.Load(), open
}

// However requests and notifications end, both sides agree in the end on what the window
// of each has left, and nothing is in use.
func TestCreditIsConserved(t *testing.T) {
	reg := new(Registry)
	methods := make(map[string]*ipc.Method[[]byte, []byte])
	var names []string
	act := func(ctx context.Context, b []byte) ([]byte, error) {
		switch n := rand.IntN(400); {
		case n == 0:
			runtime.Goexit()
		case n == 1:
			panic("a handler")
		case n == 2:
			time.Sleep(rand.N(3 * tick))
		case n < 8:
			return nil, errors.New("failed")
		case n < 20 && len(b) > 0: // that has a call of its own
			_, err := methods["inline"].Call(ctx, CallerOf(ctx), nil)
			return nil, err
		case n < 25 && len(b) > 0:
			return nil, methods["in order"].Notify(ctx, CallerOf(ctx), nil)
		}
		return nil, nil
	}
	for name, opt := range map[string]func(*Handler){
		"in order": func(*Handler) {}, "inline": (*Handler).Inline, "two at a time": func(h *Handler) { h.Concurrent(2) },
	} {
		m, inPlace := ipc.NewMethod[[]byte, []byte](name, ipc.WithCodec(ipc.Raw)), ipc.NewMethod[[]byte, []byte](name+" in place", ipc.WithCodec(ipc.Raw))
		handle(reg, m, act, opt)
		handleInPlace(reg, inPlace, func(ctx context.Context, r *Request) error { _, err := act(ctx, r.Payload()); return err }, opt)
		methods[name], methods[name+" in place"] = m, inPlace
		names = append(names, name, name+" in place")
	}
	methods["unknown"] = ipc.NewMethod[[]byte, []byte]("unknown", ipc.WithCodec(ipc.Raw))
	names = append(names, "unknown")
	host, worker := newSessionPair(t, reg)
	payload := make([]byte, 256<<10)
	var work sync.WaitGroup
	for _, s := range []*Session{host, worker} {
		for range 4 {
			work.Go(func() {
				for range 150 {
					m, request := methods[names[rand.IntN(len(names))]], payload[:rand.N(len(payload))]
					ctx, cancel := context.WithTimeout(context.Background(), rand.N(20*time.Millisecond))
					switch rand.IntN(4) {
					case 0:
						_ = m.Notify(ctx, s, request)
					case 1:
						_, _ = m.Call(ctx, s, request)
					case 2:
						_ = s.Batch(ctx, func(c ipc.Caller) error { // that share frames
							for range rand.IntN(300) {
								_ = m.Notify(ctx, c, request[:min(len(request), rand.IntN(200))])
							}
							return nil
						})
					default:
						_ = s.Batch(ctx, func(c ipc.Caller) error {
							for i := range rand.IntN(20) {
								_ = m.Notify(ctx, c, request[:min(len(request), 1000)])
								if f, err := m.Go(ctx, c, nil); err == nil && i%2 == 0 {
									f.Abandon()
								} else if err == nil {
									_, _ = f.Wait(ctx)
									f.Abandon()
								}
							}
							return nil
						})
					}
					cancel()
				}
			})
		}
	}
	work.Wait()
	idle := func(s *Session) bool {
		return !s.handles() && s.calls.pending() == 0 && s.reader.state.Load()&readerTaken == 0
	}
	for from, to := range map[*Session]*Session{host: worker, worker: host} {
		require.Eventually(t, func() bool {
			if !idle(from) || !idle(to) {
				return false
			}
			requests, notifications, open := to.unreturned()
			return open == 0 && from.requestWindow.open() == requests && from.notificationWindow.open() == notifications
		}, time.Minute, 5*time.Millisecond)
	}
	require.False(t, host.Failing() || worker.Failing())
}

// open returns what was sent and not given back.
func (w *sendWindow) open() int64 { return w.sent.Load() - w.returned.Load() }
