package socket

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

type netConn = *net.UnixConn

// helloTimeout bounds how long one side waits for the hello of a connection.
// It is a variable for the tests.
var helloTimeout = 5 * time.Second

// exchange sends a host's hello, receives the worker's and compares the two. The worker
// answers when it has all that the link needs, or refuses.
func exchange(conn netConn, local drivers.Hello) (drivers.Hello, error) {
	return process.HearFirstHello(conn, local, sendHello(conn, local))
}

// hear receives the first host's hello. A host that does not agree gets ours, so that it
// sees in what.
func hear(conn netConn, local drivers.Hello) (drivers.Hello, error) {
	remote, err := process.HearFirstHello(conn, local, nil)
	var mismatch *ipc.MismatchError
	if errors.As(err, &mismatch) {
		_ = sendHello(conn, local) // the error itself is returned as well
	}
	return remote, err
}

func sendHello(conn netConn, local drivers.Hello) error {
	b, err := drivers.AppendHello(nil, local)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("tandem: socket: send the hello: %w", err)
	}
	return nil
}

// refuse sends the reason why there will be no hello, and closes the connection.
func refuse(conn netConn, reason error) {
	_ = conn.SetWriteDeadline(time.Now().Add(helloTimeout))
	process.Refuse(conn, reason)
	conn.Close()
}
