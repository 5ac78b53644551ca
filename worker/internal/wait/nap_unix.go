//go:build unix

package wait

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps for a millisecond at least, and holds a thread. A signal may cut it short.
func nap(d time.Duration) { _, _ = unix.Poll(nil, int(max(d.Milliseconds(), 1))) }
