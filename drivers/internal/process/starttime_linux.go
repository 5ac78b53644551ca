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
func StartTime(pid int) uint64 { return startTime(strconv.Itoa(pid)) }

// ownStartTime is the start time of this process. It is right also where /proc is that
// of another pid namespace, in which our id is another process's.
func ownStartTime() uint64 { return startTime("self") }

func startTime(name string) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", name))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const field = 22 - 3 // as proc(5) counts, less pid, name and the index base
	if len(fields) <= field {
		return 0
	}
	t, err := strconv.ParseUint(fields[field], 10, 64)
	if err != nil {
		return 0
	}
	return t
}

// innermostPID returns the id that a process has in its own pid namespace, of those in
// which it has one, or 0 if there is no such process.
func innermostPID(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "\nNSpid:")
	line, _, _ := strings.Cut(after, "\n")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return pid // the kernel has no pid namespaces
	}
	inner, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return 0
	}
	return inner
}
