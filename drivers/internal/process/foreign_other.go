//go:build !linux

package process

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Foreign is a process that is not our child. Only Linux can hold on to one.
type Foreign struct{ drivers.Process }

// Find fails on this system, which cannot prove that a process is still the one
// that had this id.
func Find(int, uint64, string) (*Foreign, error) {
	return nil, fmt.Errorf("%w: %s cannot hold on to a process that is not a child", ipc.ErrUnsupported, runtime.GOOS)
}

// Peer fails on this system, as Find does.
func Peer(_ *net.UnixConn, pid int, program string) (*Foreign, error) {
	return Find(pid, 0, program)
}

// Signal sends nothing.
func (*Foreign) Signal(os.Signal) error { return os.ErrProcessDone }

// Close does nothing.
func (*Foreign) Close() {}
