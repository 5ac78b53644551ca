//go:build !linux

package process

// StartTime is not known on this system.
func StartTime(int) uint64 { return 0 }

func ownStartTime() uint64 { return 0 }

// innermostPID returns pid: this system has no pid namespaces.
func innermostPID(pid int) int { return pid }
