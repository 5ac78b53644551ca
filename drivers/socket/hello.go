package socket

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

type netConn = *net.UnixConn

// helloTimeout bounds how long one side waits for the hello of a connection.
// It is a variable for the tests.
var helloTimeout = 5 * time.Second

// exchange says hello, hears the peer's and compares the two. A hello is far
// smaller than what a socket buffers, so both sides can speak first.
func exchange(conn netConn, local ipc.Hello) (ipc.Hello, error) {
	said := sayHello(conn, local)
	// A peer that refused and hung up has left its reason, even if it did not
	// wait for our hello.
	remote, err := ipc.ReadHello(conn)
	var refused *ipc.RefusedError
	if said != nil && !errors.As(err, &refused) {
		return ipc.Hello{}, said
	}
	if err != nil {
		return ipc.Hello{}, fmt.Errorf("tandem: socket: read the hello of the other side: %w", err)
	}
	return remote, ipc.Agree(local, remote)
}

func sayHello(conn netConn, local ipc.Hello) error {
	b, err := ipc.AppendHello(nil, local)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("tandem: socket: say hello: %w", err)
	}
	return nil
}

// refuse says why there will be no hello, and hangs up.
func refuse(conn netConn, reason string) {
	_ = conn.SetWriteDeadline(time.Now().Add(helloTimeout))
	_, _ = conn.Write(ipc.AppendRefusal(nil, reason))
	conn.Close()
}
