//go:build !linux

package ring

import (
	"runtime"
	"time"
)

// sleepOn polls. Systems other than Linux have no sealed memory here, so rings exist
// only on the heap of one process: this is correct, not quick.
func (s *sleeper) sleepOn(value uint32) { pollWord(s.bell, value) }

// futexWake has nothing to do: sleepers look by themselves.
func futexWake(*uint32) {}

func osYield() { runtime.Gosched() }

func nap(d time.Duration) { time.Sleep(d) }
