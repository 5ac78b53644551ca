// Package wait waits for channels that are closed.
package wait

import "time"

// Within waits until done is closed, or other is, or d has passed. It returns true
// if done was closed. A nil channel is never closed.
func Within(done <-chan struct{}, d time.Duration, other <-chan struct{}) bool {
	over, stop := After(d)
	defer stop()
	select {
	case <-done:
		return true
	case <-other:
	case <-over:
	}
	return false
}

// Closed reports whether c is closed. Nothing may be sent on c.
func Closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
