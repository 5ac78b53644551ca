//go:build !unix || solaris || aix

package rendezvous

import (
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/tandemipc/tandem/ipc"
)

func supported() error {
	return fmt.Errorf("tandem: servers that others start: %w on this system", ipc.ErrUnsupported)
}

func othersWrite(fs.FileInfo) bool { return false }

func (s *site) lock() (unlock func(), err error) { return nil, supported() }

func bindAndListen(string, fs.FileMode, func() error) (*net.UnixListener, error) {
	return nil, supported()
}

func listenOn(*os.File) (*net.UnixListener, error) { return nil, supported() }

func listenAgain(*net.UnixListener) error { return supported() }

func copyOf(*net.UnixListener) (*os.File, error) { return nil, supported() }

func lookAt(string) error { return supported() }

func checkListening(*os.File) error { return supported() }

func inheritedFile(int, string) *os.File { return nil }

func sendNow(*net.UnixConn, []byte) {}
