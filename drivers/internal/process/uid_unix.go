//go:build unix && !solaris && !aix

package process

import (
	"os"
	"syscall"
)

// UID returns the user that a process with these attributes is started as.
func UID(attr *syscall.SysProcAttr) int {
	if attr != nil && attr.Credential != nil {
		return int(attr.Credential.Uid)
	}
	return os.Geteuid()
}
