package engine

import (
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// tick is how long a handler may keep a background reader before the watchdog takes
// over.
const tick = 500 * time.Microsecond

// While calls are rare the watchdog looks less often, since each look wakes a thread, which
// is a good part of what a rare call costs.
const (
	rareTick = 4 * time.Millisecond // between two looks then, at most
	// rareTurns is how often the reader state changes hands within rareTime, at most,
	// while calls are rare. One call takes it twice where the handler is.
	rareTurns = 4
	rareTime  = time.Millisecond
)

// quietLooks is after how many looks in a row that find no work the watchdog ends.
const quietLooks = 5

// watchdog looks, while a link is busy, whether its background reader is stuck in a
// handler. It arms the link when the link is not busy any more.
type watchdog struct{ active atomic.Bool }

// activate starts the watchdog if it does not run.
func (w *watchdog) activate(s *Session) {
	if w.active.Load() || !w.active.CompareAndSwap(false, true) {
		return
	}
	s.handling.Go(func() { w.run(s) })
}

func (w *watchdog) run(s *Session) {
	state := &s.reader.state
	for {
		last, quiet, pause := state.Load(), 0, tick
		for quiet < quietLooks && !s.Failing() {
			wait.Pause(pause)
			word := state.Load()
			switch {
			case word == last && word&readerState == readerHandling:
				if s.takeOver(word) {
					s.replaceBackgroundReader(true)
				}
			case word == last && word&readerState == readerUnarmed:
				if s.acquire(nil) {
					s.release(false)
				}
			case word&readerAway != 0 && last&readerAway != 0 && word&readerGeneration == last&readerGeneration:
				s.replaceBackgroundReader(false)
			case word == last:
				quiet++
			default:
				quiet = 0
			}
			// One call takes the state once.
			turns := word/readerTurn - last/readerTurn
			dense := turns >= denseCalls*uint64(pause)/uint64(denseTime)
			s.reader.deferArm.Store(dense && !s.config.Handlers.serves())
			pause = pauseAfter(pause, word, turns)
			last = word
		}
		s.reader.deferArm.Store(false)
		w.active.Store(false)
		// A goroutine that found the watchdog active just now relies on it.
		word := state.Load()
		now := word & readerState
		if s.Failing() || now != readerHandling && now != readerUnarmed && word&readerAway == 0 || !w.active.CompareAndSwap(false, true) {
			return
		}
	}
}

// pauseAfter returns how long the watchdog pauses when it has found the reader state to be
// word, and to have changed hands so often in the pause before. Whatever is to be done at
// the next look is done after a tick.
func pauseAfter(pause time.Duration, word, turns uint64) time.Duration {
	if word&(readerState|readerAway) != readerFree || turns > rareTurns*uint64(pause)/uint64(rareTime) {
		return tick
	}
	return min(2*pause, rareTick)
}

// replaceBackgroundReader starts a new background reader if the present one is away.
// The new one reads at once if the caller holds the reader state.
func (s *Session) replaceBackgroundReader(reading bool) {
	for {
		word := s.reader.state.Load()
		if word&readerAway == 0 {
			// It is back. If the caller holds the reader state, that must not be lost.
			if reading {
				s.release(true)
			}
			return
		}
		next := (word + readerGenerationOne) & readerGeneration
		if s.reader.state.CompareAndSwap(word, word&^(readerGeneration|readerAway)|next) {
			s.startBackgroundReader(next, reading)
			return
		}
	}
}
