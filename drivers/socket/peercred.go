package socket

import (
	"fmt"
	"slices"
)

// credentials are what the kernel says of the process at the other end: of the
// one that called listen, seen from the side that connected, and of the one
// that connected, seen from the side that accepted.
type credentials struct {
	uid int
	pid int // 0 where the system does not tell
}

// checkUser returns an error unless the peer belongs to one of these users.
func (c credentials) checkUser(uids ...int) error {
	if !slices.Contains(uids, c.uid) {
		return fmt.Errorf("tandem: socket: peer belongs to user %d (pid %d), expected %v: only the same user may connect", c.uid, c.pid, uids)
	}
	return nil
}

// checkProcess returns an error unless the peer is one of these processes, or
// the system does not tell, or one of them is 0, a process whose id is not known.
func (c credentials) checkProcess(pids ...int) error {
	if c.pid != 0 && !slices.Contains(pids, 0) && !slices.Contains(pids, c.pid) {
		return fmt.Errorf("tandem: socket: process %d listens there, expected the worker, process %d: another process has taken its path", c.pid, pids[0])
	}
	return nil
}
