package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// StartTime returns when a process started, in clock ticks since boot, or 0 if
// there is none of this id. With it an id cannot be mistaken for a later
// process of the same id.
func StartTime(pid int) uint64 {
	t, _ := startTime(pid)
	return t
}

// startTime is StartTime. It fails only if this process is short of a resource, and so
// cannot say whether there is a process of this id.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if IsShortage(err) {
		return 0, fmt.Errorf("tandem: when did process %d start: %w", pid, err)
	}
	if err != nil {
		return 0, nil
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const startTime = 22 - 3 // as proc(5) counts, less pid, name and the index base
	if len(fields) <= startTime {
		return 0, nil
	}
	t, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return 0, nil
	}
	return t, nil
}
