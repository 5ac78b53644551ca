//go:build !linux

package process

// StartTime is not known on this system.
func StartTime(int) uint64 { return 0 }

func startTime(string) (uint64, error) { return 0, nil }

// innermostPID returns pid: this system has no pid namespaces.
func innermostPID(pid int) int { return pid }
