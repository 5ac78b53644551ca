package measure

import (
	"runtime"
	"time"
)

// Usage is what a process has used since its start. Where a system does not tell,
// the fields are zero.
type Usage struct {
	// CPU is processor time, of user and system together.
	CPU time.Duration
	// Switches are context switches, voluntary and not, of all threads.
	Switches int64
	// Mallocs are objects that were allocated on the heap.
	Mallocs uint64
	// Threads are the operating system's, now.
	Threads int
	// RSS is resident memory in bytes, now, and PeakRSS the most since the start
	// or since [ResetPeak].
	RSS, PeakRSS int64
}

// Self returns the usage of this process. It stops the world for a moment.
func Self() Usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := system()
	u.Mallocs = m.Mallocs
	return u
}

// Since returns what was used between before and u. Threads and memory are u's.
func (u Usage) Since(before Usage) Usage {
	u.CPU -= before.CPU
	u.Switches -= before.Switches
	u.Mallocs -= before.Mallocs
	return u
}
