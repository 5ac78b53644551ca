package engine

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Replay is the replay buffer of a worker: what becomes of the handlers of links that
// were disconnected. They run on, and their answers are kept for the host if it resumes
// its calls, or else dropped and counted. It is safe for concurrent use.
type Replay struct {
	returns bool // whether hosts may come back
	limit   int  // of the bytes kept; 0 keeps nothing
	dropped atomic.Uint64

	running sync.WaitGroup // sessions that were disconnected and have handlers

	mu sync.Mutex // guards the following
	// host is served now, or was last. Others have no claim to what is kept.
	host     hostID
	sessions map[*Session]linkID // that were disconnected and have handlers
	calls    map[callID]*orphanedCall
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

// orphanedCall is a call whose link has ended. It has an answer, or somebody waits for
// one, or both while the answer is being sent.
type orphanedCall struct {
	id      callID
	answer  *drivers.Frame
	sending bool
	session *Session // where the answer is asked for, nil if it is not
	tx      uint64   // there
}

// answerCost is what an answer counts for in addition to its payload and metadata.
const answerCost = 64

func costOfAnswer(f *drivers.Frame) int {
	return len(f.Payload) + len(f.Handles) + f.Meta.Size() + answerCost
}

// Init makes p ready: canReconnect says whether hosts may come back, and limit is how
// many bytes of answers are kept for them.
func (p *Replay) Init(canReconnect bool, limit int) {
	p.returns = canReconnect
	p.limit = limit
	p.sessions = make(map[*Session]linkID)
	p.calls = make(map[callID]*orphanedCall)
}

// keeps reports whether answers are kept. p may be nil.
func (p *Replay) keeps() bool { return p != nil && p.limit > 0 }

// Dropped returns how many answers were not kept.
func (p *Replay) Dropped() uint64 { return p.dropped.Load() }

// Adopt makes the handlers of s, which is not open, survive its link if the host may
// come back.
func (p *Replay) Adopt(s *Session) {
	if !p.returns {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	peer := s.link.Peer()
	if host := (hostID{peer.PID, peer.Nonce}); host != p.host {
		p.host = host
		for _, c := range p.calls {
			p.drop(c)
		}
	}
	s.replay = p
	s.claimer = nil // what could not be sent could not be kept
}

// Disconnected sees to the handlers of s, whose link was disconnected.
func (p *Replay) Disconnected(s *Session) {
	id := s.linkID()
	p.mu.Lock()
	p.sessions[s] = id
	p.mu.Unlock()
	p.running.Go(func() {
		s.Close(0) // when its handlers have ended
		s.cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sessions, s)
		for _, c := range p.calls {
			if c.id.link == id && c.answer == nil {
				delete(p.calls, c.id) // its answer went out over the old link after all
				to, f := c.session, drivers.Frame{Kind: drivers.KindError, Tx: c.tx, Payload: ipc.AppendError(nil, errNotKept)}
				// Not refuse: that session may be closing, too.
				p.running.Go(func() { _ = to.transmit(&f) })
			}
		}
	})
}

func (s *Session) linkID() linkID {
	peer := s.link.Peer()
	return linkID{hostID{peer.PID, peer.Nonce}, s.number}
}

// find returns the session of a link that was disconnected, if it has handlers.
// p.mu is held.
func (p *Replay) find(link linkID) *Session {
	for s, id := range p.sessions {
		if id == link {
			return s
		}
	}
	return nil
}

// Drain ends the contexts of the handlers that have survived their links, and returns
// a channel that is closed when they have ended.
func (p *Replay) Drain() <-chan struct{} {
	p.mu.Lock()
	for s := range p.sessions {
		s.cancel()
	}
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		p.running.Wait()
		close(ended)
	}()
	return ended
}

// drop gives a call up. p.mu is held.
func (p *Replay) drop(c *orphanedCall) {
	if c.answer != nil {
		p.bytes -= costOfAnswer(c.answer)
		p.dropped.Add(1)
	}
	delete(p.calls, c.id)
}

// keep takes the answer of a handler whose link has gone.
func (p *Replay) keep(id callID, f *drivers.Frame) {
	cost := costOfAnswer(f)
	p.mu.Lock()
	c := p.calls[id]
	if c == nil && (id.link.number == 0 || id.link.host != p.host || cost > p.limit-p.bytes) {
		p.mu.Unlock()
		p.dropped.Add(1)
		return
	}
	if c == nil {
		c = &orphanedCall{id: id}
		p.calls[id] = c
	}
	kept := *f
	kept.Payload = slices.Clone(f.Payload) // it is the request's
	c.answer = &kept
	c.sending = true
	p.bytes += cost
	p.mu.Unlock()
	p.send(c)
}

// send sends an answer to the session where somebody waits for it, and keeps it when
// nobody does. Its caller has set sending.
func (p *Replay) send(c *orphanedCall) {
	for {
		p.mu.Lock()
		to, f := c.session, *c.answer
		f.Tx = c.tx
		c.session = nil
		if to == nil || p.calls[c.id] != c {
			c.sending = false
			if p.calls[c.id] == c && p.bytes > p.limit {
				p.drop(c)
			}
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if err := to.transmit(&f); err == nil {
			p.mu.Lock()
			if p.calls[c.id] == c {
				p.bytes -= costOfAnswer(&f)
				delete(p.calls, c.id)
			}
			p.mu.Unlock()
			return
		}
		// That link has gone as well. The host may ask again.
	}
}

// resume deals with a frame that gives the link of s a number, or asks for the answer
// of a call of an earlier link. It never blocks.
func (p *Replay) resume(s *Session, f *drivers.Frame) error {
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
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[id]
	if c == nil {
		if old := p.find(id.link); old == nil || !old.tracked.has(id.tx) {
			s.refuse(f.Kind, f.Tx, 0, errNotKept)
			return nil
		}
		c = &orphanedCall{id: id}
		p.calls[id] = c
	}
	c.session, c.tx = s, f.Tx
	if c.answer != nil && !c.sending {
		c.sending = true
		s.handling.Go(func() { p.send(c) })
	}
	return nil
}

// cancel ends the handler of a call that was made on an earlier link, and is known
// on that of s as tx.
func (p *Replay) cancel(s *Session, tx uint64, reason byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c.session == s && c.tx == tx {
			if old := p.find(c.id.link); old != nil {
				old.tracked.cancel(c.id.tx, reason)
			}
			return
		}
	}
}
