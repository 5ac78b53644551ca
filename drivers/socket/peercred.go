package socket

import (
	"fmt"
	"slices"

	"github.com/tandemipc/tandem/drivers/internal/peercred"
)

// credentials are those of the process at the other end of a connection.
type credentials peercred.Credentials

func peerCredentials(conn netConn) (credentials, error) {
	c, err := peercred.Of(conn)
	return credentials(c), err
}

// checkUser returns an error unless the peer belongs to one of these users.
func (c credentials) checkUser(uids ...int) error {
	if !slices.Contains(uids, c.UID) {
		return fmt.Errorf("tandem: socket: peer belongs to user %d (pid %d), expected %v: only the same user may connect", c.UID, c.PID, uids)
	}
	return nil
}

// checkProcess returns an error unless the peer is one of these processes, or
// the system does not tell, or one of them is 0, a process whose id is not known.
func (c credentials) checkProcess(pids ...int) error {
	if c.PID != 0 && !slices.Contains(pids, 0) && !slices.Contains(pids, c.PID) {
		return fmt.Errorf("tandem: socket: process %d listens there, expected the worker, process %d: another process has taken its path", c.PID, pids[0])
	}
	return nil
}
