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

// Memory is what a process has mapped and the system has given it, in bytes.
type Memory struct {
	// RSS is what is resident, and PSS the same with each page divided by those that have it mapped.
	RSS, PSS int64
	// Private is what is resident and has been changed by this process, or made for it: not files, nor what
	// it shares with others.
	Private int64
	// Files are the lengths of the memory files that are mapped, each mapping counted.
	Files int64
}

// Since returns what has been added.
func (m Memory) Since(before Memory) Memory {
	return Memory{m.RSS - before.RSS, m.PSS - before.PSS, m.Private - before.Private, m.Files - before.Files}
}
