package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A slow receiver misses the oldest values, and learns how many.
func TestSlowReceiver(t *testing.T) {
	const limit = 256
	release, first := make(chan struct{}), make(chan struct{}, 1)
	var got, gaps []int
	q := New(limit, func(value, missed int) {
		got, gaps = append(got, value), append(gaps, missed)
		if len(got) == 1 {
			first <- struct{}{}
			<-release
		}
	})
	q.Push(1)
	<-first // it is busy with that
	for i := range limit + 7 {
		q.Push(2 + i)
	}
	close(release)
	q.Close(time.Minute)
	require.Len(t, got, 1+limit)
	require.Equal(t, 2+7, got[1])
	require.Equal(t, 7, gaps[1])
	require.Zero(t, gaps[2])
	require.Equal(t, 1+limit+7, got[limit])
	q.Push(0) // is dropped, and blocks nobody
}
