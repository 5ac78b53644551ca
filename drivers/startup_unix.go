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

// lifeFile makes a file of an inherited pipe. Reading it takes no thread.
func lifeFile(fd int) *os.File {
	closeOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // if it fails reading takes a thread
	return os.NewFile(uintptr(fd), "life")
}
