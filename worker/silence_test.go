package worker

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever the pauses of a busy host take: a silent worker is dead when it has had its time in which the host ran, and
// not before; and not at the end of a pause in which the host did not run.
func TestSilence(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := silence{interval: time.Duration(1 + r.IntN(1000)), timeout: time.Duration(1 + r.IntN(5000)), lasted: -1}
		round := min(s.interval, s.timeout)
		slow := r.IntN(4)                     // of four pauses are too long
		asked, ran := false, time.Duration(0) // while the host ran, since the worker was asked
		late := 0                             // pauses at whose end it could have been dead
		for {
			pause := s.pause()
			require.Positive(t, pause)
			require.LessOrEqual(t, pause, s.interval)
			took := pause + time.Duration(r.Int64N(int64(round)+1))
			held := r.IntN(4) < slow
			if held {
				took = pause + round + 1 + time.Duration(r.IntN(10_000))
			}
			dead := s.goesOn(took)
			if asked {
				ran += pause
			}
			asked = true
			if held && ran >= s.timeout {
				late++
			}
			if dead {
				require.GreaterOrEqual(t, ran, s.timeout)
				require.False(t, held)
				break
			}
			require.Less(t, ran, s.timeout+round*time.Duration(late+1))
		}
	}
}
