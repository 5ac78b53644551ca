//go:build !unix

package drivers

import "os"

func closeOnExec(int) {}

func hostAliveFile(fd int) *os.File { return os.NewFile(uintptr(fd), "host alive") }
