//go:build !unix

package drivertest

import (
	"errors"
	"net"
	"os"
)

// There are no such signals here; cases that need them are skipped.
var sigStop, sigContinue, sigQuit os.Signal

func killSelf() {
	p, err := os.FindProcess(os.Getpid())
	if err == nil {
		_ = p.Kill()
	}
	select {}
}

func ignoreBrokenPipes() {}

func socketPair() (net.Conn, int, error) { return nil, -1, errors.ErrUnsupported }
