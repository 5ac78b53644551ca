//go:build unix

package measure

import (
	"time"

	"golang.org/x/sys/unix"
)

func system() Usage {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return Usage{}
	}
	u := Usage{
		CPU:      time.Duration(r.Utime.Nano() + r.Stime.Nano()),
		Switches: int64(r.Nvcsw) + int64(r.Nivcsw),
	}
	u.Threads, u.RSS, u.PeakRSS = status("self")
	return u
}
