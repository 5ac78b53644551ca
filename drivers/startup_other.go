//go:build !unix

package drivers

import "os"

func closeOnExec(int) {}

func lifeFile(fd int) *os.File { return os.NewFile(uintptr(fd), "life") }
