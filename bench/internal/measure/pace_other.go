//go:build !linux

package measure

import "time"

// Pacer wakes a goroutine at given times.
type Pacer struct{}

// NewPacer returns a pacer for one goroutine, which has to close it.
func NewPacer() (*Pacer, error) { return new(Pacer), nil }

// Until blocks until the clock [Now] shows t.
func (*Pacer) Until(t time.Duration) error {
	time.Sleep(t - Now())
	return nil
}

// Close releases the timer.
func (*Pacer) Close() error { return nil }
