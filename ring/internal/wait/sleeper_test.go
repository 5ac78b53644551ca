package wait

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// However one sleeps, a bell that is rung, or Wake, ends it; none is lost that comes between Prepare
// and the sleep.
func TestSleeps(t *testing.T) {
	var bell uint32
	s := Sleeper{Bell: &bell}
	for name, sleep := range map[string]func(value uint32){
		"Block":    s.Block,
		"BlockFor": func(value uint32) { s.BlockFor(value, time.Hour) },
		"Poll":     func(value uint32) { s.Poll(func() bool { return atomic.LoadUint32(&bell) != value }) },
	} {
		for i := range 300 {
			value := s.Prepare()
			require.True(t, s.Asleep())
			done := make(chan struct{})
			go func() {
				defer close(done)
				sleep(value)
			}()
			if i%3 == 0 {
				time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
			}
			if i%2 == 0 {
				s.Wake()
			} else {
				atomic.AddUint32(&bell, 1)
				FutexWake(&bell)
			}
			<-done
			require.False(t, s.Asleep(), name)
			s.Wake()
			s.Cancel()
		}
	}
	s.BlockFor(s.Prepare(), time.Millisecond) // ends by itself
	s.Poll(func() bool { return false })      // so does this
}
