package natsipc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// serving is a call that is served.
type serving struct {
	host   *host
	number uint64
	reply  string
	cancel context.CancelCauseFunc
	due    time.Time // of the next heartbeat; guarded by the host's mutex

	mu       sync.Mutex
	over     bool
	interval time.Duration
	large    bool           // there is a response that has to be fetched,
	size     int            // of so many bytes
	fetch    chan *nats.Msg // takes one message that fetches it, and then is nil
	far      bool           // the caller has to confirm heartbeats: see otherAccount
	unheard  bool           // nobody gets the last heartbeat, or nobody has confirmed it
	strikes  int            // heartbeats in a row that nobody has got
}

// Why a handler's context ends.
var (
	errCanceled   = errors.New("tandem: the caller has given up")
	errCallerGone = errors.New("tandem: the caller is gone")
)

// secret returns a number that nobody guesses: who knows the subject of controls of a call can give it up, and fetch its response.
func secret() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.LittleEndian.Uint64(b[:])
}

// otherAccount is what the reply subjects of requests from other accounts begin with, which NATS makes. It says of no message to
// one whether somebody gets it. So these callers confirm heartbeats.
const otherAccount = "_R_."

// bounded returns an interval of heartbeats as a caller may choose it.
func bounded(interval time.Duration) time.Duration {
	return min(max(interval, MinHeartbeat), MaxHeartbeat)
}

// begin makes a call known, which has come at this time, and begins its heartbeats.
func (h *host) begin(reply string, begun time.Time, interval time.Duration, cancel context.CancelCauseFunc) *serving {
	s := &serving{host: h, number: secret(), reply: reply, cancel: cancel, interval: bounded(interval), far: strings.HasPrefix(reply, otherAccount)}
	s.due = begun.Add(min(acceptDelay, s.interval))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[s.number] = s
	h.beatAt(s.due)
	return s
}

// beatAt has the heartbeats sent that are due then. One timer serves all calls, since one for each would cost a
// quick call more than all the rest of it. h.mu is held.
func (h *host) beatAt(due time.Time) {
	if !h.next.IsZero() && !due.Before(h.next) {
		return
	}
	h.next = due
	if wait := time.Until(due); h.timer == nil {
		h.timer = time.AfterFunc(wait, h.beats)
	} else {
		h.timer.Reset(wait)
	}
}

// beats sends the heartbeats that are due.
func (h *host) beats() {
	now := time.Now()
	var due []*serving
	h.mu.Lock()
	h.next = time.Time{}
	var next time.Time
	for _, s := range h.calls {
		if !s.due.After(now) {
			s.due = now.Add(s.interval)
			due = append(due, s)
		}
		if next.IsZero() || s.due.Before(next) {
			next = s.due
		}
	}
	if !next.IsZero() {
		h.beatAt(next)
	}
	h.mu.Unlock()
	for _, s := range due {
		if s.count() {
			s.beat()
		}
	}
}

// end ends the heartbeats, and that the call can be given up. It may be called more than once, and reports whether it was not before.
func (s *serving) end() (first bool) {
	s.mu.Lock()
	first = !s.over
	s.over = true
	s.mu.Unlock()
	if first {
		s.host.mu.Lock()
		delete(s.host.calls, s.number)
		s.host.mu.Unlock()
	}
	return first
}

// giveUp ends the context of the call, unless the call is over: then the context may be that of another one.
func (s *serving) giveUp(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.cancel(why)
	}
}

// count counts the heartbeats that nobody has got, and ends the call if these are too many. It reports whether there is to be another one.
func (s *serving) count() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unheard {
		s.unheard = false
		s.strikes++
	} else {
		s.strikes = 0
	}
	if s.over {
		return false
	}
	if s.strikes >= maxMissed {
		s.cancel(errCallerGone)
		return false
	}
	return true
}

// beat says that the call is still served.
func (s *serving) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	if s.host.nc.IsConnected() {
		control := s.host.base + tokenControl + "." + s.host.id + "." + strconv.FormatUint(s.number, 36)
		// NATS tells the reply subject if nobody gets it. A caller of another account gets another reply subject.
		m := &nats.Msg{Subject: s.reply, Reply: control, Header: nats.Header{headerAnswer: {answerAlive}, headerControl: {control}}}
		if s.large {
			m.Header[headerAnswer][0], m.Data = answerLarge, strconv.AppendInt(nil, int64(s.size), 10)
		}
		_ = s.host.nc.PublishMsg(m) // if that fails the next one is as good
		s.unheard = s.far
	}
}

// errNoResponse is what a caller gets that fetches a response that is not there, as its server ends, or that somebody fetches already.
var errNoResponse = ipc.Errorf(ipc.CodeUnavailable, "%w", errNothing)

var errNothing = errors.New("tandem: there is no response to fetch")

func init() { ipc.RegisterError("tandem.nats.no_response", errNothing) }

// controlled takes what a caller, or NATS, says of a call. One goroutine calls it.
func (h *host) controlled(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	h.mu.Lock()
	s := h.calls[number]
	h.mu.Unlock()
	fetches := m.Header.Get(headerStream) != ""
	switch {
	case s == nil && fetches:
		_ = flow.Refuse(h.nc, m.Reply, errNoResponse) // or the caller misses heartbeats
	case s == nil:
	case fetches:
		s.mu.Lock()
		fetch := s.fetch
		s.fetch = nil
		s.mu.Unlock()
		if fetch == nil {
			_ = flow.Refuse(h.nc, m.Reply, errNoResponse)
			return
		}
		fetch <- m // there is a place for it
	case len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNobody:
		s.mu.Lock()
		s.unheard = true
		s.mu.Unlock()
	case m.Header.Get(headerControl) == controlAlive:
		s.mu.Lock()
		s.unheard = false
		s.mu.Unlock()
	case m.Header.Get(headerControl) == controlCancel, m.Header.Get(headerControl) == controlDeadline:
		s.giveUp(errCanceled)
	}
}
