package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A slow receiver misses the oldest events, and learns how many.
func TestEventsForSlowReceiver(t *testing.T) {
	release, first := make(chan struct{}), make(chan struct{}, 1)
	var got []Event
	e := newEvents(func(event Event) {
		got = append(got, event)
		if len(got) == 1 {
			first <- struct{}{}
			<-release
		}
	})
	e.add(Event{Attempt: 1})
	<-first // it is busy with that
	for i := range maxEvents + 7 {
		e.add(Event{Attempt: 2 + i})
	}
	close(release)
	e.close(time.Minute)
	require.Len(t, got, 1+maxEvents)
	require.Equal(t, 2+7, got[1].Attempt)
	require.Equal(t, 7, got[1].Missed)
	require.Zero(t, got[2].Missed)
	require.Equal(t, 1+maxEvents+7, got[maxEvents].Attempt)
	e.add(Event{}) // is dropped, and blocks nobody
}
