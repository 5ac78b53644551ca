//go:build !unix

package drivers

import "os"

// lookAt finds nothing: on this system no worker is started.
func lookAt(int) (fileKind, uint64) { return kindClosed, 0 }

func closeOnExec(int) {}

func hostAliveFile(fd int) *os.File { return os.NewFile(uintptr(fd), "host alive") }
