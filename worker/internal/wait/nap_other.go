//go:build !unix

package wait

import "time"

// nap is time.Sleep: no worker can be started on this system.
func nap(d time.Duration) { time.Sleep(d) }
