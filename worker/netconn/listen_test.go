//go:build unix

package netconn_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/netconn"
)

// Whoever dials is told why it gets no connection.
func TestDialIsRefused(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		refused := func(name string, code ipc.Code, text string) {
			t.Helper()
			_, err := netconn.Dial(t.Context(), w, name)
			var e *ipc.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, code, e.Code)
			require.ErrorContains(t, err, text)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "dial", op.Op)
			require.Equal(t, netconn.Addr{Name: name}, op.Addr)
		}
		refused("nobody", ipc.CodeUnimplemented, "netconn.nobody")
		for range 20 {
			refused("closed", ipc.CodeUnavailable, `the listener "closed" is closed`)
		}
	})
}

// While as many connections wait as a listener takes, whoever dials waits, too.
func TestFullListener(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		const backlog, more = 2, 20
		l := netconn.Listen(w, "back", netconn.WithBacklog(backlog))
		var dialled []func() done
		for range backlog + more {
			dialled = append(dialled, beginWith(t, w, act{What: "dial", Name: "back"}))
		}
		for range backlog + more {
			c, err := l.Accept()
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
		for _, wait := range dialled {
			require.Empty(t, wait().Err)
		}

		for range backlog {
			c, err := netconn.Dial(t.Context(), w, "full")
			require.NoError(t, err)
			defer c.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		_, err := netconn.Dial(ctx, w, "full")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		// Those that wait learn that the listener is closed.
		dialled = nil
		for range backlog + more {
			dialled = append(dialled, beginWith(t, w, act{What: "dial", Name: "back"}))
		}
		eventually(t, "some of them wait", func() bool { return waiting("Listener).take") > 0 })
		require.NoError(t, l.Close())
		refused := 0
		for _, wait := range dialled {
			switch d := wait(); d.Err {
			case ipc.CodeUnavailable.String():
				refused++
			case "":
				p := pair{t: t, w: w, number: d.N}
				require.Equal(t, ipc.CodeUnavailable.String(), p.do("read", 1).Err)
			default:
				t.Fatal(d.Err)
			}
		}
		require.GreaterOrEqual(t, refused, more)
	})
}

// A listener that is closed leaves the connections alone that were accepted, and gives up those
// that wait.
func TestListenerCloses(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		l := netconn.Listen(w, "back")
		accepted := acceptPair(t, w, l)
		waits := beginWith(t, w, act{What: "dial", Name: "back"})()
		require.Empty(t, waits.Err)
		waiting := pair{t: t, w: w, number: waits.N}
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Close(), net.ErrClosed)
		_, err := l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, ipc.CodeUnavailable.String(), waiting.do("read", 1).Err)
		require.Equal(t, ipc.CodeUnavailable.String(), beginWith(t, w, act{What: "dial", Name: "back"})().Err)

		_, err = accepted.Write(pattern(100, 0))
		require.NoError(t, err)
		require.Equal(t, done{N: 100, Good: true}, accepted.do("read", 100))
		require.Equal(t, done{N: 100}, accepted.do("write", 100))
		accepted.read(100, 0)
		require.NoError(t, accepted.Close())
	})
}

// Close ends an Accept that waits.
func TestCloseEndsAccept(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		l := netconn.Listen(w, "back")
		ends := make(chan error, 3)
		for range cap(ends) {
			go func() {
				_, err := l.Accept()
				ends <- err
			}()
		}
		blocked(t, "Listener).Accept", cap(ends))
		require.NoError(t, l.Close())
		for range cap(ends) {
			require.ErrorIs(t, <-ends, net.ErrClosed)
		}
	})
}

// A connection that its dialler has closed before Accept is accepted, and has what was written.
func TestAcceptOfAnEndedConnection(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		c, err := netconn.Dial(t.Context(), w, "held")
		require.NoError(t, err)
		_, err = c.Write(pattern(5000, 0))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		d := beginWith(t, w, act{What: "accept"})()
		require.Empty(t, d.Err)
		p := pair{t: t, w: w, number: d.N}
		require.Equal(t, done{N: 5000, Good: true, Err: "eof"}, p.do("read", 6000))
		require.Empty(t, p.do("close", 0).Err)
	})
}

// There may be many connections, and each has its own bytes.
func TestManyConnections(t *testing.T) {
	eachDriver(t, func(t *testing.T, w client) {
		const conns = 300
		var all []net.Conn
		for range conns {
			c, err := netconn.Dial(t.Context(), w, "echo")
			require.NoError(t, err)
			all = append(all, c)
		}
		for i, c := range all {
			_, err := c.Write(pattern(3000, int64(i)))
			require.NoError(t, err)
		}
		for i, c := range all {
			require.NoError(t, c.(*netconn.Conn).CloseWrite())
			n, good, err := readPattern(c, 3001, int64(i))
			require.Equal(t, io.EOF, err)
			require.Equal(t, 3000, n)
			require.True(t, good)
			require.NoError(t, c.Close())
		}
	})
}

func TestWrongArguments(t *testing.T) {
	w := starters["shm"](t)
	netconn.Listen(w, "once")
	require.PanicsWithValue(t, `tandem: methods "netconn.once" and "netconn.once" have the same id `+id("netconn.once")+`: each takes one handler`, func() { netconn.Listen(w, "once") })
	require.Panics(t, func() { netconn.Listen(w, "") })
	require.Panics(t, func() { netconn.WithBacklog(0) })
	require.Panics(t, func() { netconn.NewDialer(w, "") })
	require.Panics(t, func() { netconn.NewDialer(nil, "x") })
}
