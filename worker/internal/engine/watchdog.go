package engine

import (
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// tick is how long a handler may keep a background reader before the watchdog takes
// over.
const tick = 500 * time.Microsecond

// quietTicks is after how many ticks without work the watchdog ends.
const quietTicks = 8

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
		last, quiet := state.Load(), 0
		for quiet < quietTicks && !s.Failing() {
			wait.Pause(tick)
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
			dense := word/readerTurn-last/readerTurn >= denseCalls*uint64(tick)/uint64(denseTime)
			s.reader.deferArm.Store(dense && !s.config.Handlers.serves())
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
