//go:build !linux

package process

// StartTime is not known on this system.
func StartTime(int) uint64 { return 0 }

func startTime(int) (uint64, error) { return 0, nil }
