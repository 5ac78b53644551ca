//go:build !unix || solaris || aix

package process

import (
	"os"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
)

// UID returns our own user: no process is started here as another one.
func UID(*syscall.SysProcAttr) int { return os.Geteuid() }

// Credentials are our own: no process is started here as another user.
func Credentials(*syscall.SysProcAttr) drivers.Credentials {
	return drivers.Credentials{UID: os.Geteuid(), GID: os.Getegid()}
}
