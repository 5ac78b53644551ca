//go:build !linux

package ring

import (
	"sync/atomic"
	"time"
)

type groupSleep struct{}

// block polls, as sleepOn does.
func (g *Group) block(word uint32) {
	pause := 20 * time.Microsecond
	for range 12 {
		for _, c := range g.consumers {
			if c.rang() {
				return
			}
		}
		if atomic.LoadUint32(&g.word) != word {
			return
		}
		nap(pause)
		pause = min(2*pause, time.Millisecond)
	}
}
