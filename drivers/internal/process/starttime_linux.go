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
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const startTime = 22 - 3 // as proc(5) counts, less pid, name and the index base
	if len(fields) <= startTime {
		return 0
	}
	t, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return 0
	}
	return t
}
