package broadcast

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ring"
)

type spinner struct {
	mode  ring.Wait
	polls int
}

func (s *spinner) setMode(m ring.Wait) { s.mode = m }
func (s *spinner) begin()              { s.polls = 0 }
func (s *spinner) stop()               {}
func (s *spinner) end()                {}
func (s *spinner) again() bool {
	s.polls++
	if s.polls%64 == 0 {
		runtime.Gosched()
	}
	return s.mode == ring.WaitSpin || s.polls < 1000
}

type sleeper struct {
	bell   *uint32
	woken  atomic.Bool
	asleep atomic.Bool
}

func (s *sleeper) prepare() uint32 {
	s.asleep.Store(true)
	return atomic.LoadUint32(s.bell)
}

func (s *sleeper) block(bell uint32, d time.Duration) {
	for i := 0; i < 12 && !s.woken.Load() && atomic.LoadUint32(s.bell) == bell; i++ {
		time.Sleep(20 * time.Microsecond)
	}
	s.cancel()
}
func (s *sleeper) cancel() {
	s.woken.Store(false)
	s.asleep.Store(false)
}
func (s *sleeper) wake() {
	s.woken.Store(true)
	for s.asleep.Load() && s.woken.Load() {
		time.Sleep(20 * time.Microsecond)
	}
}

type failure struct{ err atomic.Pointer[error] }

func (f *failure) set(err error) { f.err.CompareAndSwap(nil, &err) }

func (f *failure) get() error {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return nil
}

var clockBase = time.Now()

func clock() time.Duration { return time.Since(clockBase) }

func futexWake(*uint32) {}

func (s *sleeper) poll(until func() bool) {
	for i := 0; i < 12 && !s.woken.Load() && !until(); i++ {
		time.Sleep(20 * time.Microsecond << min(i, 6))
	}
	s.cancel()
}
