//go:build unix && !solaris && !aix

package process

import (
	"os"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
)

// UID returns the user that a process with these attributes is started as.
func UID(attr *syscall.SysProcAttr) int {
	if attr != nil && attr.Credential != nil {
		return int(attr.Credential.Uid)
	}
	return os.Geteuid()
}

// Credentials are those of a process that is started with these attributes, as far as they are known before.
func Credentials(attr *syscall.SysProcAttr) drivers.Credentials {
	c := drivers.Credentials{UID: UID(attr), GID: os.Getegid()}
	if attr != nil && attr.Credential != nil {
		c.GID = int(attr.Credential.Gid)
	}
	return c
}
