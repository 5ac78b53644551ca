package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// streamFlusher sends the gathered items of streams that have paused. It is one goroutine of
// a session, while any stream has gathered items. The longer streams go on sending, the
// less often it looks.
type streamFlusher struct {
	mu      sync.Mutex
	streams []*Stream
	running bool
}

const (
	minFlush = 50 * time.Microsecond
	maxFlush = time.Millisecond
)

// add makes the flusher look after st, which has just gathered something.
func (f *streamFlusher) add(s *Session, st *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = append(f.streams, st)
	if !f.running {
		f.running = true
		go f.run(s) // it only sends
	}
}

func (f *streamFlusher) run(s *Session) {
	var streams []*Stream // that it looks after
	for pause := minFlush; ; pause = min(2*pause, maxFlush) {
		wait.Pause(pause)
		f.mu.Lock()
		if streams = append(streams, f.streams...); len(streams) == 0 || s.Failing() {
			f.streams, f.running = nil, false
			f.mu.Unlock()
			return
		}
		clear(f.streams)
		f.streams = f.streams[:0]
		f.mu.Unlock()
		streams = slices.DeleteFunc(streams, func(st *Stream) bool { return !st.pausedSince(s) })
	}
}

// pausedSince sends what the stream has gathered, unless it has sent something since the
// last look. It returns true if the flusher has to look again.
func (st *Stream) pausedSince(s *Session) (again bool) {
	o := &st.out
	if !o.lock.tryLock() {
		// Who waits for the window sends what is gathered, or hands it back.
		return !o.blocks.CompareAndSwap(windowAwaited, windowUnwatched) && o.blocks.Load() != windowUnwatched
	}
	defer o.lock.unlock()
	switch {
	case o.buffer == nil:
	case o.frames != o.seen:
		o.seen = o.frames
		return true
	default:
		st.flushLocked(s.baseCtx)
	}
	o.listed = false
	return false
}
