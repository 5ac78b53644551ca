package gather

import (
	"slices"

	"github.com/tandemipc/tandem/ring"
)

// Next returns the next record and whose it is, and releases the one before. It does not block:
// ok is false and err nil when no producer has one.
//
// An error is about producer id, and says that it is out: it is the one of
// [ring.Consumer.Interrupt], such as one that wraps [ring.ErrPeerGone]; a
// [*ring.CorruptError]; or [ErrRemoved]. The others go on with the next call.
//
// The record's Data is valid until the next call of Next, Message or Wait, unless it is leased;
// see [ring.Record]. The pieces of a split message are records of their own, see
// [Consumer.Message].
func (g *Consumer[ID]) Next() (r ring.Record, id ID, ok bool, err error) {
	for {
		s, err := g.turn()
		if s == nil {
			return ring.Record{}, id, false, nil
		}
		if err == nil {
			if r, ok, err = s.ring.Next(); ok {
				g.take(len(r.Data))
				return r, s.id, true, nil
			}
			if err == nil {
				err = s.ended()
			}
			if err == nil {
				g.empty()
				continue
			}
		}
		return ring.Record{}, g.leave(s), false, err
	}
}

// Message returns the next message, joined if it was split, and whose it is; see
// [ring.Consumer.Message]. Otherwise it is Next. A message that its producer did not finish before
// it was gone is dropped. A turn takes up to 64 pieces of a message that is not complete, each an
// eighth of the ring or less, and the message counts when it is. Do not mix Message and Next while a message is being joined.
func (g *Consumer[ID]) Message() (m ring.Message, id ID, ok bool, err error) {
	for {
		s, err := g.turn()
		if s == nil {
			return ring.Message{}, id, false, nil
		}
		if err == nil {
			if m, ok, err = s.ring.Message(); ok {
				g.take(len(m.Data))
				return m, s.id, true, nil
			}
			if err == nil {
				err = s.ended()
			}
			if err == nil {
				g.empty()
				continue
			}
		}
		return ring.Message{}, g.leave(s), false, err
	}
}

// turn returns whose turn it is, or nil if all were asked in vain. With an error it returns who
// is out.
func (g *Consumer[ID]) turn() (*source[ID], error) {
	if g.records > 0 && g.bytes > 0 {
		return g.current, nil
	}
	return g.nextTurn()
}

// take counts a record that was read.
func (g *Consumer[ID]) take(bytes int) {
	g.records--
	g.bytes -= bytes
	g.asked = 0
}

// empty ends a turn for want of records.
func (g *Consumer[ID]) empty() {
	g.records = 0
	g.asked++
}

// nextTurn gives the turn to the next one.
//
//go:noinline
func (g *Consumer[ID]) nextTurn() (*source[ID], error) {
	if s := g.current; s != nil {
		if err := s.exhausted(); err != nil {
			return s, err
		}
	}
	if g.changed.Load() {
		g.apply()
	}
	if n := len(g.out); n > 0 {
		s := g.out[n-1]
		g.out = g.out[:n-1]
		return s, ErrRemoved
	}
	if g.asked >= len(g.sources) {
		g.asked = 0
		return nil, nil
	}
	if g.at >= len(g.sources) {
		g.at = 0
	}
	g.current = g.sources[g.at]
	g.at++
	g.records, g.bytes = g.quantum()
	return g.current, nil
}

// ended returns why the producer was interrupted, if it was and everything is read.
func (s *source[ID]) ended() error {
	why := s.ring.Interrupted()
	// The look comes after that: what was published before is read.
	if why == nil || s.ring.Ready() {
		return nil
	}
	return why
}

// exhausted returns why a producer was interrupted if as much has been read since as its ring holds.
// What was published before the interrupt is no more than that, so it is read; the producer is
// alive, and publishes on.
func (s *source[ID]) exhausted() error {
	why := s.ring.Interrupted()
	switch {
	case why == nil:
		return nil
	case !s.draining:
		s.draining, s.from = true, s.ring.Position()
		return nil
	case s.ring.Position()-s.from < uint64(s.ring.RingSize()):
		return nil
	}
	return why
}

// apply takes in who was added, and notes who was removed.
func (g *Consumer[ID]) apply() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed.Store(false)
	for _, s := range g.added {
		g.group.Add(s.ring)
	}
	g.sources = append(g.sources, g.added...)
	for _, s := range g.removed {
		if g.present[s.id] == s && !s.out { // not reported meanwhile, and not removed twice
			s.out = true
			g.out = append(g.out, s)
		}
	}
	clear(g.added)
	clear(g.removed)
	g.added, g.removed = g.added[:0], g.removed[:0]
}

// leave takes s out, and ends its turn.
func (g *Consumer[ID]) leave(s *source[ID]) ID {
	g.group.Remove(s.ring)
	i := slices.Index(g.sources, s)
	g.sources = slices.Delete(g.sources, i, i+1)
	if i < g.at {
		g.at--
	}
	g.current, g.records, g.asked = nil, 0, 0
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.present, s.id)
	return s.id
}
