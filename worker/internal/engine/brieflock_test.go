package engine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A goroutine that waits for the lock, and leaves when that was handed to it just now, does
// not keep it: those that only try find it free.
func TestBriefLockIsFreeWhenWaitersHaveLeft(t *testing.T) {
	var l briefLock
	l.init()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	left := 0
	for range 100 { // the waiter finds either first
		require.True(t, l.tryLock(), "%d have left", left)
		l.token <- struct{}{} // as wake does
		if l.lock(ended, nil, nil) != nil {
			left++
			continue
		}
		l.unlock()
	}
	require.NotZero(t, left)
}

// The same while others come and go.
func TestBriefLockIsFreeAfterManyWaiters(t *testing.T) {
	var l briefLock
	l.init()
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, 3)
		require.True(t, l.tryLock())
		for range cap(done) {
			go func() {
				if l.lock(ctx, nil, nil) == nil {
					l.unlockSoon()
				}
				done <- struct{}{}
			}()
		}
		go cancel()
		l.unlock()
		for range cap(done) {
			<-done
		}
		require.True(t, l.tryLock(), "nobody is there who holds the lock")
		l.unlock()
	}
}
