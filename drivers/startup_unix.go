//go:build unix

package drivers

import (
	"os"
	"syscall"
)

func closeOnExec(fd int) {
	if fd > 2 {
		syscall.CloseOnExec(fd)
	}
}

// hostAliveFile makes a file of the inherited host-alive pipe. Reading it takes no thread.
func hostAliveFile(fd int) *os.File {
	closeOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // if it fails reading takes a thread
	return os.NewFile(uintptr(fd), "host alive")
}
