package process

import (
	"runtime"
	"sync"
)

// A starter is a goroutine with a thread of its own, from which children are started. A
// parent-death signal fires when the thread that has started the child ends, and no
// other thread of a Go program is sure to outlive the child.
type starter struct {
	bubble string
	work   chan func()
	users  int // starts that run, and children that have not been reaped; guarded by starters
}

// starters are those that run. There is one at most, except in tests with package
// synctest: each bubble has its own, for goroutines must not share channels with another.
var starters struct {
	sync.Mutex
	of map[string]*starter // by bubble
}

// useStarter returns the starter, and starts it if there is none. Each user leaves it.
func useStarter() *starter {
	bubble := bubble()
	starters.Lock()
	defer starters.Unlock()
	s := starters.of[bubble]
	if s == nil {
		s = &starter{bubble: bubble, work: make(chan func())}
		if starters.of == nil {
			starters.of = make(map[string]*starter)
		}
		starters.of[bubble] = s
		go s.run()
	}
	s.users++
	return s
}

func (s *starter) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // nobody hangs on the thread any more
	for f := range s.work {
		f()
	}
}

// do runs f on the starter's thread.
func (s *starter) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { f(); close(done) }
	<-done
}

// leave ends the use of a starter, and the starter with the last use.
func (s *starter) leave() {
	starters.Lock()
	defer starters.Unlock()
	if s.users--; s.users == 0 {
		delete(starters.of, s.bubble)
		close(s.work)
	}
}
