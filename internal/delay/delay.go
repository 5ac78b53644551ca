// Package delay gives the pauses between attempts.
package delay

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	growth = 2
	jitter = 0.25
	// longest bounds all pauses, so that no jitter makes one overflow. It is 146
	// years.
	longest = time.Duration(1<<62 - 1)
)

// Growing gives pauses of which each is twice as long as the one before, up to a
// maximum, and each is varied by up to a quarter, so that those who failed
// together do not try again together. It is not safe for concurrent use.
type Growing struct {
	limit   time.Duration
	backoff backoff.ExponentialBackOff
}

// New returns pauses that begin with about first. None is longer than limit. Both
// have to be more than 0.
func New(first, limit time.Duration) *Growing {
	limit = min(limit, longest)
	return &Growing{limit: limit, backoff: backoff.ExponentialBackOff{
		InitialInterval: min(first, limit), MaxInterval: limit, Multiplier: growth, RandomizationFactor: jitter,
	}}
}

// Next returns the next pause.
func (g *Growing) Next() time.Duration { return min(g.backoff.NextBackOff(), g.limit) }

// Reset makes the next pause the first one again.
func (g *Growing) Reset() { g.backoff.Reset() }
