package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// limit says what a limit of this process is, "" if it has none.
func limit(name string) string {
	resource, ok := map[string]int{
		"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_AS": unix.RLIMIT_AS,
		"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	}[name]
	var l unix.Rlimit
	if !ok || unix.Getrlimit(resource, &l) != nil || l.Cur == unix.RLIM_INFINITY {
		return ""
	}
	return fmt.Sprintf("%s is %d", name, l.Cur)
}
