package worker

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// afterlife is what becomes of the handlers of links that were disconnected, on a
// worker: they run on, and what they answer is counted as dropped, or kept for the
// host if it resumes its calls.
type afterlife struct {
	returns bool // whether hosts may come back
	limit   int  // of the bytes kept; 0 keeps nothing
	dropped atomic.Uint64

	running sync.WaitGroup // sessions that were disconnected and have handlers

	mu sync.Mutex // guards the following
	// host is who is served, or was last. Others have no claim to what is kept.
	host     hostID
	sessions map[*session]linkID // that were disconnected and have handlers
	calls    map[callID]*afterCall
	bytes    int // of the answers in calls
}

// hostID names a run of a host, linkID one of its links, callID a call there.
type hostID struct {
	pid   int
	nonce uint64
}

type linkID struct {
	host   hostID
	number uint64
}

type callID struct {
	link linkID
	tx   uint64
}

// afterCall is a call whose link has ended. There is an answer, or somebody waits
// for it, or both while it is being sent.
type afterCall struct {
	id      callID
	answer  *drivers.Frame
	sending bool
	session *session // where the answer is asked for, nil if it is not
	tx      uint64   // there
}

// answerCost is what an answer counts for in addition to its payload.
const answerCost = 64

func (a *afterlife) begin(driver drivers.Acceptor, limit int) {
	a.returns = driver.Capabilities().Reconnect
	a.limit = limit
	a.sessions = make(map[*session]linkID)
	a.calls = make(map[callID]*afterCall)
}

// serve makes s, which is not open, a session whose handlers survive its link, if the
// host may come back.
func (a *afterlife) serve(s *session) {
	if !a.returns {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	peer := s.link.Peer()
	if host := (hostID{peer.PID, peer.Nonce}); host != a.host {
		a.host = host
		for _, c := range a.calls {
			a.drop(c)
		}
	}
	s.afterlife = a
	s.claimer = nil // what could not be sent could not be kept
}

// leave sees to the handlers of s, whose link was disconnected.
func (a *afterlife) leave(s *session) {
	id := s.linkID()
	a.mu.Lock()
	a.sessions[s] = id
	a.mu.Unlock()
	a.running.Go(func() {
		s.close(0) // when its handlers have ended
		s.cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, s)
		for _, c := range a.calls {
			if c.id.link == id && c.answer == nil {
				delete(a.calls, c.id) // its answer went out over the old link after all
				to, f := c.session, drivers.Frame{Kind: drivers.KindError, Tx: c.tx, Payload: ipc.AppendError(nil, errNotKept)}
				// Not refuse: that session may be closing, too.
				a.running.Go(func() { _ = to.transmit(f) })
			}
		}
	})
}

func (s *session) linkID() linkID {
	peer := s.link.Peer()
	return linkID{hostID{peer.PID, peer.Nonce}, s.number}
}

// find returns the session of a link that was disconnected, if it has handlers.
// a.mu is held.
func (a *afterlife) find(link linkID) *session {
	for s, id := range a.sessions {
		if id == link {
			return s
		}
	}
	return nil
}

// drain ends the contexts of the handlers that have survived their links, and returns
// a channel that is closed when they have ended.
func (a *afterlife) drain() <-chan struct{} {
	a.mu.Lock()
	for s := range a.sessions {
		s.cancel()
	}
	a.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		a.running.Wait()
		close(ended)
	}()
	return ended
}

// drop gives a call up. a.mu is held.
func (a *afterlife) drop(c *afterCall) {
	if c.answer != nil {
		a.bytes -= len(c.answer.Payload) + answerCost
		a.dropped.Add(1)
	}
	delete(a.calls, c.id)
}

// answer takes the answer of a handler whose link has gone.
func (a *afterlife) answer(id callID, f drivers.Frame) {
	cost := len(f.Payload) + answerCost
	a.mu.Lock()
	c := a.calls[id]
	if c == nil && (id.link.number == 0 || id.link.host != a.host || cost > a.limit-a.bytes) {
		a.mu.Unlock()
		a.dropped.Add(1)
		return
	}
	if c == nil {
		c = &afterCall{id: id}
		a.calls[id] = c
	}
	f.Payload = slices.Clone(f.Payload) // it is the job's
	c.answer = &f
	c.sending = true
	a.bytes += cost
	a.mu.Unlock()
	a.send(c)
}

// send sends an answer to who waits for it, as long as somebody does, and keeps it
// otherwise. Its caller has set sending.
func (a *afterlife) send(c *afterCall) {
	for {
		a.mu.Lock()
		to, f := c.session, *c.answer
		f.Tx = c.tx
		c.session = nil
		if to == nil || a.calls[c.id] != c {
			c.sending = false
			if a.calls[c.id] == c && a.bytes > a.limit {
				a.drop(c)
			}
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		if err := to.transmit(f); err == nil {
			a.mu.Lock()
			if a.calls[c.id] == c {
				a.bytes -= len(f.Payload) + answerCost
				delete(a.calls, c.id)
			}
			a.mu.Unlock()
			return
		}
		// That link has gone as well. The host may ask again.
	}
}

// resume deals with a frame that gives the link of s a number, or asks for the answer
// of a call of an earlier link. It never blocks.
func (a *afterlife) resume(s *session, f drivers.Frame) error {
	if f.Tx == 0 {
		if len(f.Payload) != 8 || s.number != 0 {
			return fmt.Errorf("%w: %d bytes number a link, expected 8, and once", ipc.ErrProtocol, len(f.Payload))
		}
		s.number = binary.LittleEndian.Uint64(f.Payload)
		return nil
	}
	if len(f.Payload) != callKeySize {
		return fmt.Errorf("%w: %d bytes name a call of another link, expected %d", ipc.ErrProtocol, len(f.Payload), callKeySize)
	}
	id := callID{linkID{s.linkID().host, binary.LittleEndian.Uint64(f.Payload)}, binary.LittleEndian.Uint64(f.Payload[8:])}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.calls[id]
	if c == nil {
		if old := a.find(id.link); old == nil || !old.running.has(id.tx) {
			s.refuse(f, errNotKept)
			return nil
		}
		c = &afterCall{id: id}
		a.calls[id] = c
	}
	c.session, c.tx = s, f.Tx
	if c.answer != nil && !c.sending {
		c.sending = true
		s.handling.Go(func() { a.send(c) })
	}
	return nil
}

// cancel ends the handler of a call that was made on an earlier link, and is known
// on that of s as tx.
func (a *afterlife) cancel(s *session, tx uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.session == s && c.tx == tx {
			if old := a.find(c.id.link); old != nil {
				old.running.cancel(c.id.tx)
			}
			return
		}
	}
}
