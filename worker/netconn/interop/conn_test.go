//go:build unix

package interop

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/tandemipc/tandem/worker/netconn"
)

// Connections are what package net says of them. One end has dialled, and the other was accepted:
// each is tried as the first and as the second. A worker passes the bytes between the two.
func TestConn(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		right := netconn.Listen(w, "right")
		pipe := func() (c1, c2 net.Conn, stop func(), err error) {
			if c1, err = netconn.Dial(patience(t), w, "left"); err != nil {
				return nil, nil, nil, err
			}
			if _, err = splice.Call(patience(t), w, 0); err == nil {
				c2, err = right.Accept()
			}
			if err != nil {
				c1.Close()
				return nil, nil, nil, err
			}
			return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
		}
		t.Run("dialled first", func(t *testing.T) { nettest.TestConn(t, pipe) })
		t.Run("accepted first", func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				c1, c2, stop, err := pipe()
				return c2, c1, stop, err
			})
		})
		require.NoError(t, right.Close())
	})
}
