package rendezvous

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// firstInherited is the number of the first descriptor that a service manager passes.
const firstInherited = 3

// activated are the sockets that a service manager has passed to this process.
var activated struct {
	sync.Mutex
	read  bool
	files []*os.File // those that were taken are nil
	names []string
}

// ErrNotPassed says that no service manager has passed such a socket.
var ErrNotPassed = errors.New("tandem: no such socket was passed to this process")

// Activated takes a socket over that a service manager such as systemd has opened for this process, as
// LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES say. which is its name (FileDescriptorName=), or its number,
// counted from 0, or "" if there is one only. Each can be taken once. The first call removes the variables
// from the environment, and keeps children from inheriting the sockets: call it before any is started. Close
// leaves the socket file, which is the manager's. It fails with [ErrNotPassed] or [ErrNotSocket].
func Activated(which string) (*Listener, error) {
	activated.Lock()
	defer activated.Unlock()
	if !activated.read {
		activated.read = true
		activated.files, activated.names = readActivation()
	}
	i, err := findActivated(which)
	if err != nil {
		return nil, err
	}
	f := activated.files[i]
	l, err := FromFile(f, "")
	if err != nil {
		return nil, err
	}
	activated.files[i] = nil
	f.Close()
	return l, nil
}

// findActivated returns the index of a socket that has not been taken. activated is locked.
func findActivated(which string) (int, error) {
	var found []int
	for i, f := range activated.files {
		number := which == strconv.Itoa(i) && !slices.Contains(activated.names, which)
		if f != nil && (which == "" || which == activated.names[i] || number) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return 0, fmt.Errorf("%w: %q, of %d (%s)", ErrNotPassed, which, len(activated.files), strings.Join(activated.names, ", "))
	}
	return 0, fmt.Errorf("%w: %d of them are %q: say which by its number", ErrNotPassed, len(found), which)
}

// readActivation reads and removes the variables.
func readActivation() (files []*os.File, names []string) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	named := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	count, err := strconv.ParseUint(n, 10, 10)
	if pid != strconv.Itoa(os.Getpid()) || err != nil {
		return nil, nil
	}
	for i := range int(count) {
		name := "unknown" // as the manager calls those that have no name
		if i < len(named) && named[i] != "" {
			name = named[i]
		}
		f := inheritedFile(firstInherited+i, name)
		if f == nil {
			break
		}
		files, names = append(files, f), append(names, name)
	}
	return files, names
}
