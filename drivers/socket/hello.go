package socket

import (
	"fmt"
	"net"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
)

type netConn = *net.UnixConn

// helloTimeout bounds how long one side waits for the hello of a connection.
// It is a variable for the tests.
var helloTimeout = 5 * time.Second

// exchange sends our hello over the control socket, receives the peer's and compares the
// two. A hello is far smaller than what a socket buffers, so both sides can send first.
func exchange(conn netConn, local drivers.Hello) (drivers.Hello, error) {
	return process.HearFirstHello(conn, local, sendHello(conn, local))
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
func refuse(conn netConn, reason string) {
	_ = conn.SetWriteDeadline(time.Now().Add(helloTimeout))
	_, _ = conn.Write(drivers.AppendRefusal(nil, reason))
	conn.Close()
}
