//go:build unix

package socket

import (
	"syscall"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// The descriptor is marked at once, so that no child inherits it.
func init() {
	s := drivers.Startup()
	if s == nil || s.Driver != driverName {
		return
	}
	var opts options
	if ipc.CBOR.Decode(s.DriverData, &opts) == nil && opts.Handover > 2 {
		syscall.CloseOnExec(opts.Handover)
	}
}
