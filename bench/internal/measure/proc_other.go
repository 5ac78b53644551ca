//go:build !linux

package measure

func status(string) (threads int, rss, peak int64) { return 0, 0, 0 }

// Process returns the processor time, threads and memory of another process,
// without asking it; ok is false where the system does not tell.
func Process(pid int) (u Usage, ok bool) { return Usage{}, false }

// ResetPeak makes PeakRSS of this process start anew.
func ResetPeak() {}

// MemoryOf returns the memory of another process, or of this one if pid is 0.
func MemoryOf(pid int) (m Memory) { return Memory{} }

// AvailableMemory returns how many bytes new processes can have, or 0 if the
// system does not tell.
func AvailableMemory() int64 { return 0 }
