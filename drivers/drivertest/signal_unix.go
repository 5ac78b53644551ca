//go:build unix

package drivertest

import (
	"net"
	"os"
	"os/signal"
	"syscall"
)

var (
	sigStop     os.Signal = syscall.SIGSTOP
	sigContinue os.Signal = syscall.SIGCONT
	sigQuit     os.Signal = syscall.SIGQUIT
)

// killSelf ends this process as the kernel would, without a last word.
func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// ignoreBrokenPipes keeps a worker from dying because nobody reads its stdout.
func ignoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }

// socketPair returns a connected pair: one end for the netpoller, and the
// number of the other, as a worker inherits it.
func socketPair() (net.Conn, int, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, -1, err
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		_ = syscall.Close(fds[1])
		return nil, -1, err
	}
	return c, fds[1], nil
}
