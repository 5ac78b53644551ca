package engine

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// endingLink ends a call just when a goroutine has taken the reader state.
type endingLink struct {
	*fakeLink
	end atomic.Pointer[func()]
}

func (l *endingLink) Disarm() {
	l.fakeLink.Disarm()
	if end := l.end.Load(); end != nil {
		(*end)()
	}
}

// A goroutine that has taken the reader state gives it back, also if what it waits for is over
// at that moment: another goroutine closes a stream, or has read the answer just before.
func TestReaderStateIsGivenBackByWhoNeedsItNoMore(t *testing.T) {
	link := &endingLink{fakeLink: newFakeLink()}
	if runtime.GOMAXPROCS(0) == 1 {
		t.Skip("with one processor nobody looks on")
	}
	s := New(Config{Link: link, Side: Host, Handlers: new(Registry)})
	for i := range 2000 {
		c := streamCalls.Get().(*call)
		c.word.Store(c.word.Load()&^callState + 8 | callWaiting)
		require.True(t, s.acquire(nil), "nobody else reads")
		end := func() { c.complete() }
		link.end.Store(&end)
		var ready, begins atomic.Bool
		gone := make(chan struct{})
		go func() { // it lets go of the state while this goroutine looks on, or sooner or later
			for ready.Store(true); !begins.Load(); {
			}
			for range i % 50 {
				ready.Store(true)
			}
			s.release(false)
			for range 10_000 {
				ready.Store(true)
			}
			c.complete() // or nobody does, if it looked too late
			close(gone)
		}()
		for !ready.Load() {
			runtime.Gosched()
		}
		begins.Store(true)
		require.NoError(t, s.await(context.Background(), c, 0, nil))
		<-gone
		link.end.Store(nil)
		require.Zero(t, s.reader.state.Load()&readerTaken, "the goroutine has kept the reader state")
		c.reuse()
	}
}
