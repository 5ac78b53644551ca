//go:build !unix

package process

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var errUnsupported = fmt.Errorf("%w: %s cannot hand a socket down to a worker", ipc.ErrUnsupported, runtime.GOOS)

// Options of [Spawn].
type Options struct {
	Detached bool
	Inherit  func(add func(*os.File) int) error
}

// Spawn fails on this system.
func Spawn(context.Context, *drivers.Command, Options, func(*net.UnixConn) error) (*Process, *net.UnixConn, error) {
	return nil, nil, errUnsupported
}

// Control fails on this system.
func Control(*drivers.StartupData) (*net.UnixConn, error) { return nil, errUnsupported }

func startOS(*exec.Cmd, bool, int) (wait func() bool, reaped func(), err error) {
	return nil, nil, errUnsupported
}

func nap(d time.Duration) { time.Sleep(d) }

func signalGroup(p *os.Process, sig os.Signal) error { return p.Signal(sig) }
