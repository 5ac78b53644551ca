package drivers

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	backoffGrowth = 2
	backoffJitter = 0.25
	// longestPause bounds all pauses, so that no jitter makes one overflow. It is 146
	// years.
	longestPause = time.Duration(1<<62 - 1)
)

// Backoff gives pauses between attempts. Each pause is twice as long as the one before, up
// to a maximum, and is varied by up to a quarter, so that those who failed together do not
// try again together. It is not safe for concurrent use.
type Backoff struct {
	limit  time.Duration
	delays backoff.ExponentialBackOff
}

// NewBackoff returns pauses that begin with about first. None is longer than limit. Both
// have to be more than 0.
func NewBackoff(first, limit time.Duration) *Backoff {
	limit = min(limit, longestPause)
	return &Backoff{limit: limit, delays: backoff.ExponentialBackOff{
		InitialInterval: min(first, limit), MaxInterval: limit, Multiplier: backoffGrowth, RandomizationFactor: backoffJitter,
	}}
}

// Next returns the next pause.
func (b *Backoff) Next() time.Duration { return min(b.delays.NextBackOff(), b.limit) }

// Reset makes the next pause the first one again.
func (b *Backoff) Reset() { b.delays.Reset() }
