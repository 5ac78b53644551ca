package leaktest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// UnderLimit runs f while a resource of this process, such as unix.RLIMIT_NOFILE, is
// limited to limit. That harms all that runs in the process: tests do it in one that they
// have started for that.
func UnderLimit(resource int, limit uint64, f func()) error {
	var old unix.Rlimit
	if err := unix.Getrlimit(resource, &old); err != nil {
		return fmt.Errorf("leaktest: getrlimit %d: %w", resource, err)
	}
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		return fmt.Errorf("leaktest: setrlimit %d to %d: %w", resource, limit, err)
	}
	f()
	if err := unix.Setrlimit(resource, &old); err != nil {
		return fmt.Errorf("leaktest: setrlimit %d back to %d: %w", resource, old.Cur, err)
	}
	return nil
}

// FilesFor returns the limit of open files that leaves so many numbers free in this
// process.
func FilesFor(free int) (limit uint64) {
	open := numbers()
	for ; free > 0 || slices.Contains(open, limit); limit++ {
		if !slices.Contains(open, limit) {
			free--
		}
	}
	return limit
}

// numbers returns the numbers of this process's descriptors.
func numbers() []uint64 {
	var open []uint64
	for name := range entries("/proc/self/fd") {
		n, err := strconv.ParseUint(name, 10, 31)
		if err != nil {
			continue
		}
		// That of the directory itself is closed by now.
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil {
			open = append(open, n)
		}
	}
	return open
}

// AddressSpace returns how many bytes of addresses this process uses: what
// unix.RLIMIT_AS limits.
func AddressSpace() uint64 {
	b, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseUint(strings.Fields(string(b) + " 0")[0], 10, 64)
	return pages * uint64(os.Getpagesize())
}
