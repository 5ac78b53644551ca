package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The watchdog looks rarely only while there is nothing that its next look has to see to, and
// calls are rare.
func TestWatchdogPauses(t *testing.T) {
	const other = 7*readerTurn | 3*readerGenerationOne
	for name, c := range map[string]struct {
		pause time.Duration
		word  uint64
		turns uint64
		want  time.Duration
	}{
		"nothing came":          {tick, readerFree, 0, 2 * tick},
		"one call":              {tick, readerFree, 2, 2 * tick},
		"calls":                 {2 * tick, readerFree, rareTurns + 1, tick},
		"few in a long pause":   {rareTick, readerFree, 4 * rareTurns, rareTick},
		"many in a long pause":  {rareTick, readerFree, 4*rareTurns + 1, tick},
		"never longer":          {rareTick, readerFree, 0, rareTick},
		"a handler runs":        {rareTick, readerHandling, 0, tick},
		"somebody polls":        {rareTick, readerPolling, 0, tick},
		"the link is not armed": {rareTick, readerUnarmed, 0, tick},
		"the reader is away":    {rareTick, readerFree | readerAway, 0, tick},
	} {
		require.Equal(t, c.want, pauseAfter(c.pause, c.word|other, c.turns), name)
	}
}
