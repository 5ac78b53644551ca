package engine

import (
	"slices"
	"sync"

	"github.com/tandemipc/tandem/drivers"
)

// frames gathers frames, with copies of their payloads, to be sent together. Frames
// that are written to the link one by one wait for each other's cache misses or
// system calls.
type frames struct {
	list    []drivers.Frame
	payload []byte
	open    bool // the last frame is of notifications, and may take others
	last    int  // where it begins in payload, if it is open
}

const (
	maxFrames   = 16       // that are gathered: few enough for the peer to begin early
	maxGathered = 16 << 10 // bytes of their payloads; a larger one goes alone
)

// maxPackedBytes bounds what one frame packs, so that every peer takes it.
const maxPackedBytes = drivers.MinMaxMessage - drivers.MaxHeader

// fits reports whether f can be appended. One with attachments goes alone.
func (g *frames) fits(f *drivers.Frame) bool {
	return f.Handles == nil && f.Attached == nil && len(g.list) < maxFrames && len(g.payload)+drivers.ItemSpan(len(f.Payload)) <= maxGathered
}

// append takes f and a copy of its payload.
func (g *frames) append(f *drivers.Frame) {
	start := len(g.payload)
	if g.open = f.Kind == drivers.KindNotify && f.Meta == nil; g.open {
		g.last = start
		g.payload = drivers.AppendItem(g.payload, f.Payload)
		start += drivers.ItemHeader
	} else {
		g.payload = append(g.payload, f.Payload...)
	}
	g.list = append(g.list, *f)
	g.list[len(g.list)-1].Payload = g.payload[start : start+len(f.Payload)]
}

// join puts a notification for a method into the last frame, and returns true, if that is
// one of notifications for the same method and has room.
func (g *frames) join(method uint64, payload []byte) bool {
	if !g.open || len(g.payload)+drivers.ItemSpan(len(payload)) > min(g.last+maxPackedBytes, maxGathered) {
		return false
	}
	into := &g.list[len(g.list)-1]
	if into.Method != method || into.Tx == drivers.MaxPacked {
		return false
	}
	g.payload = drivers.AppendItem(g.payload, payload)
	into.Tx = notifications(into) + 1
	into.Payload = g.payload[g.last:]
	return true
}

// remove forgets the frames from index i up to j.
func (g *frames) remove(i, j int) {
	if j == len(g.list) {
		g.open = false
	}
	if g.list = slices.Delete(g.list, i, j); len(g.list) == 0 {
		g.reset()
	}
}

func (g *frames) reset() { g.list, g.payload, g.open = g.list[:0], g.payload[:0], false }

// What is gathered never moves.
var gathers = sync.Pool{New: func() any {
	return &frames{list: make([]drivers.Frame, 0, maxFrames), payload: make([]byte, 0, maxGathered)}
}}

// answer sends an answer of a run in the background, or lets it wait for the next
// one's if there is a next frame: that is a quick handler's, so it will be there soon.
// The background reader runs a handler, so its reader state can be taken over should
// this block.
func (b *backgroundReader) answer(s *Session, f *drivers.Frame) {
	if !b.follows && !b.gathering {
		s.answer(f) // the usual case, and the quickest
		return
	}
	b.gathering = true
	b.answersMu.Lock()
	defer b.answersMu.Unlock()
	if b.answers == nil {
		b.answers = gathers.Get().(*frames)
		s.inFlight.n.Add(1) // until they are sent
	}
	g := b.answers
	if !g.fits(f) {
		s.sendAll(g)
	}
	if !g.fits(f) {
		s.answer(f)
		return
	}
	if len(g.list) == 0 {
		b.since = 0
	}
	if g.append(f); !b.follows {
		s.sendAll(g)
	}
}

// maxSince is for how many frames answers wait though others have none to append:
// those are notifications, say, and may never cease.
const maxSince = 2 * maxFrames

// sendGathered sends what a background reader has gathered, which may be nil.
func (s *Session) sendGathered(g *frames) {
	if g != nil {
		s.sendAll(g)
		gathers.Put(g)
		s.inFlight.n.Add(-1)
	}
}

// sendAll sends answers that were gathered.
func (s *Session) sendAll(g *frames) {
	n, err := s.link.SendBatch(s.baseCtx, g.list)
	for ; err != nil && n < len(g.list); n++ {
		s.answer(&g.list[n]) // which deals with the error
	}
	g.reset()
}

// flush sends the answers that wait, because the next frame brings no other one. The
// background reader holds the reader state, so it must not block here.
func (b *backgroundReader) flush(s *Session) {
	if !b.gathering {
		return
	}
	b.gathering = false
	if g := b.takeAnswers(); g != nil && len(g.list) > 0 {
		s.handling.Go(func() { s.sendGathered(g) })
	} else {
		s.sendGathered(g)
	}
}

// takeAnswers takes the answers that wait. It returns nil if none were gathered.
func (b *backgroundReader) takeAnswers() *frames {
	b.answersMu.Lock()
	defer b.answersMu.Unlock()
	g := b.answers
	b.answers = nil
	return g
}
