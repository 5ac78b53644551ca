//go:build !linux

package wait

import (
	"runtime"
	"time"
)

// sleepOn polls. Systems other than Linux have no sealed memory here, so rings exist
// only on the heap of one process: this is correct, not quick.
func (s *Sleeper) sleepOn(value uint32) { pollWord(s.Bell, value) }

// sleepFor is sleepOn: that sleeps for some milliseconds only.
func (s *Sleeper) sleepFor(value uint32, _ time.Duration) { s.sleepOn(value) }

// FutexWake has nothing to do: sleepers look by themselves.
func FutexWake(*uint32) {}

func osYield() { runtime.Gosched() }

func nap(d time.Duration) { time.Sleep(d) }
