//go:build !linux

package wait

import "time"

type parking struct{}

// Block polls, as sleepOn does.
func (g *Gang) Block(word uint32, members []Member) {
	pause := 20 * time.Microsecond
	for range 12 {
		if g.changed(word, members) {
			return
		}
		nap(pause)
		pause = min(2*pause, time.Millisecond)
	}
}
