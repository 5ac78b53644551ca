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
	t, _ := startTime(strconv.Itoa(pid))
	return t
}

// startTime is StartTime of the process that /proc has under a name: "self" is this one,
// also where /proc is that of another pid namespace, in which our id is another process's.
// It fails only if this process is short of a resource, and so cannot say whether there is
// such a process.
func startTime(name string) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", name))
	if IsShortage(err) {
		return 0, fmt.Errorf("tandem: when did process %s start: %w", name, err)
	}
	if err != nil {
		return 0, nil
	}
	// The name, in parentheses, may hold spaces and parentheses itself.
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const field = 22 - 3 // as proc(5) counts, less pid, name and the index base
	if len(fields) <= field {
		return 0, nil
	}
	t, err := strconv.ParseUint(fields[field], 10, 64)
	if err != nil {
		return 0, nil
	}
	return t, nil
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
