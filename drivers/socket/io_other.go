//go:build !unix

package socket

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/tandemipc/tandem/ipc"
)

const handoverType = 0

var errAgain = errors.New("tandem: socket: would block")

func supported() error {
	return fmt.Errorf("%w: %s cannot hand a Unix socket down to a worker", ipc.ErrUnsupported, runtime.GOOS)
}

func recv(int, []byte, []byte) (n, oobn, flags int, err error) { return 0, 0, 0, supported() }
func send(int, *[3][]byte) (int, error)                        { return 0, supported() }
func poll(int) bool                                            { return true }
func hungUp(int) bool                                          { return true }
func endStream(int)                                            {}
func widen(int, int)                                           {}
