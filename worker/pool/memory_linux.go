package pool

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// residentMemory returns how many bytes of memory a process occupies.
func residentMemory(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data)) // size, resident ...
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm has %q", pid, data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
