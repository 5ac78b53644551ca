//go:build !unix || solaris || aix

package process

import (
	"os"
	"syscall"
)

// UID returns our own user: no process is started here as another one.
func UID(*syscall.SysProcAttr) int { return os.Geteuid() }
