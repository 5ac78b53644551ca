//go:build unix

package ipc

import "syscall"

func closeOnExec(fd int) {
	if fd > 2 {
		syscall.CloseOnExec(fd)
	}
}
