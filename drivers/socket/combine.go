package socket

import (
	"context"
	"runtime"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// A sender that finds another one at work combines its frame with that one's: it
// appends the frame to the combined frames, and the sender that holds the lock, or
// unlocks it, writes them. So one write sends all that comes meanwhile.

// combine adds a small frame to the combined frames. It returns false if that is
// not possible.
func (l *link) combine(f *drivers.Frame) bool {
	w := &l.writer
	if len(f.Payload) > smallPayload || f.Attached != nil || w.noCombine || w.stalled.Load() || l.end.Load() != nil {
		return false
	}
	if f.Kind > drivers.KindCancel {
		return false // the link may end right after it
	}
	w.combinedMu.Lock()
	if len(w.combined) > maxBatch {
		w.combinedMu.Unlock()
		return false
	}
	w.combined = appendFrame(w.combined, f)
	w.hasCombined.Store(true)
	w.combinedMu.Unlock()
	// SYNC: pairs with link.unlock, which unlocks and then loads hasCombined.
	if w.lock.TryLock() {
		l.unlock()
	}
	return true
}

// takeCombined appends the combined frames to the tail.
func (w *writer) takeCombined() {
	if !w.hasCombined.Load() {
		return
	}
	w.combinedMu.Lock()
	w.hasCombined.Store(false)
	w.tail = append(w.tail, w.combined...)
	w.combined = w.combined[:0]
	w.combinedMu.Unlock()
}

// maxRounds is how often a sender writes combined frames before it returns: other
// senders may never cease to add some.
const maxRounds = 4

// unlock unlocks the writer. Before that it writes the tail and the combined
// frames, since no other sender may come that would.
func (l *link) unlock() {
	w := &l.writer
	for round := 0; ; round++ {
		if (w.hasCombined.Load() || len(w.tail) > 0) && l.end.Load() == nil {
			if round == maxRounds || w.abandoned > 0 || l.writeTail() == errAgain {
				if !w.sendingTail.Swap(true) {
					go l.sendTail()
				}
				w.lock.Unlock()
				return
			}
		}
		w.lock.Unlock()
		if !w.hasCombined.Load() || l.end.Load() != nil || !w.lock.TryLock() {
			return
		}
	}
}

// writeTail writes the tail and the combined frames, as far as there is room.
func (l *link) writeTail() error {
	w := &l.writer
	w.takeCombined()
	w.parts = [3][]byte{w.tail}
	err := l.write()
	w.tail = w.tail[:copy(w.tail, w.parts[0])]
	w.parts = [3][]byte{}
	return err
}

// sendTail sends the tail and the combined frames when there is room, unless
// another sender does so first. It ends with the link.
func (l *link) sendTail() {
	if l.writer.lock.Lock(context.Background(), l.done) {
		_ = l.writeBacklog(context.Background())
		l.writer.sendingTail.Store(false)
		l.unlock()
	}
}

// flush waits until the tail and the combined frames are written, if there is room
// for them.
func (l *link) flush() {
	for begin := time.Now(); !l.writer.lock.TryLock(); {
		took := time.Since(begin)
		if l.writer.stalled.Load() || l.end.Load() != nil || took > maxFlush {
			return
		}
		if took < time.Millisecond {
			runtime.Gosched()
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	l.unlock()
}

// maxFlush is far longer than a sender holds the lock that does not wait for room, also one that gets no processor for a while.
const maxFlush = 10 * time.Second
