//go:build linux

package rendezvous

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGateIsChecked(t *testing.T) {
	l := listen(t, socketIn(t))
	for want, gate := range map[string]Gate{
		"MaxClients": {MaxClients: -1}, "MaxPerUser": {MaxPerUser: -1}, "MaxHellos": {MaxHellos: -1}, "HelloTimeout": {HelloTimeout: -1},
	} {
		require.ErrorContains(t, Serve(t.Context(), l, gate, echo), "tandem: Gate."+want+" is -1")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- Serve(ctx, l, Gate{}, echo) }()
	works(t, l.Path())
	require.ErrorContains(t, Serve(t.Context(), l, Gate{}, echo), "is being served already")
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	serveEcho(t, l, Gate{})
	works(t, l.Path())
}

// dial connects, and hangs up when the test ends.
func dial(t testing.TB, name string) *net.UnixConn {
	t.Helper()
	conn, _, err := Dial(testContext(t), name, DialOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	return conn
}

// welcome connects until there is room again.
func welcome(t testing.TB, name string) *net.UnixConn {
	t.Helper()
	var conn *net.UnixConn
	eventually(t, "there is room", func() bool {
		conn = dial(t, name)
		return answer(conn) == "welcome"
	})
	return conn
}

// As many clients as there may be are served. One more is refused and told why, and takes a place
// that becomes free.
func TestMaxClients(t *testing.T) {
	l := listen(t, socketIn(t))
	serveEcho(t, l, Gate{MaxClients: 3})
	var in []*net.UnixConn
	for range 3 {
		in = append(in, dial(t, l.Path()))
		require.Equal(t, "welcome", answer(in[len(in)-1]))
	}
	for range 10 {
		require.Equal(t, "full: tandem: the server takes at most 3 clients", answer(dial(t, l.Path())))
	}
	for _, conn := range in {
		require.NoError(t, conn.Close())
		require.Equal(t, "full: tandem: the server takes at most 3 clients", answer(dialFull(t, l.Path())))
	}
}

// dialFull takes the place that has become free and returns a connection that finds none.
func dialFull(t testing.TB, name string) *net.UnixConn {
	welcome(t, name)
	return dial(t, name)
}

// Connections that were let in while there was room, and find none when they have said hello, are told so.
func TestMaxClientsAfterTheHello(t *testing.T) {
	l := listen(t, socketIn(t))
	serveEcho(t, l, Gate{MaxClients: 1})
	waiting := make(map[*net.UnixConn]bool)
	for range 5 {
		waiting[dial(t, l.Path())] = true
	}
	require.Equal(t, "welcome", answer(dial(t, l.Path())))
	for conn := range waiting {
		require.Equal(t, "full: tandem: the server takes at most 1 clients", answer(conn))
	}
}

// One user has at most its share of the clients and of the hellos; others get in meanwhile.
func TestLimitsOfAUser(t *testing.T) {
	for kind, name := range places(t) {
		t.Run(kind, func(t *testing.T) {
			l, err := Listen(name, ListenOptions{Mode: 0o666})
			require.NoError(t, err)
			defer l.Close()
			serveEcho(t, l, Gate{MaxClients: 10, MaxPerUser: 2, MaxHellos: 8, Allow: func(Peer) error { return nil }, HelloTimeout: testTimeout})
			var strangers []*proc
			for range 2 {
				p := otherUser(t, "client", name)
				p.expect("welcome")
				strangers = append(strangers, p)
			}
			p := otherUser(t, "client", name)
			p.expect("full: tandem: the server takes at most 2 clients of one user")
			works(t, name)
			works(t, name)
			strangers[0].end()
			eventually(t, "the place is free", func() bool {
				p := otherUser(t, "client", name)
				return p.says() == "welcome\n"
			})
			for _, p := range strangers[1:] {
				p.end()
			}
		})
	}
}

// A flood of connections that say nothing, from two processes of another user, keeps nobody else out.
func TestFloodOfAnotherUser(t *testing.T) {
	name := places(t)["path"]
	l, err := Listen(name, ListenOptions{Mode: 0o666})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	serveEcho(t, l, Gate{MaxHellos: 16, Allow: func(Peer) error { return nil }, HelloTimeout: testTimeout})
	otherUser(t, "flood", name).expect("full: tandem: the server takes at most 8 connections of one process that have not said hello yet")
	otherUser(t, "flood", name).expect("full: tandem: the server takes at most 12 connections of one user that have not said hello yet")
	for range 20 {
		works(t, name)
	}
}

// A flood of connections that say nothing, from one process, keeps out no other: neither while it goes on, nor
// after.
func TestFlood(t *testing.T) {
	l := listen(t, socketIn(t))
	serveEcho(t, l, Gate{MaxHellos: 10})
	p := start(t, helper(t, "flood", l.Path()))
	p.expect("full: tandem: the server takes at most 5 connections of one process that have not said hello yet")
	for range 50 {
		works(t, l.Path())
	}
	p.kill()
	works(t, l.Path())
}

// Connections that say nothing end by the timeout.
func TestFloodIsOver(t *testing.T) {
	l := listen(t, socketIn(t))
	serveEcho(t, l, Gate{MaxHellos: 10, HelloTimeout: 300 * time.Millisecond})
	start(t, helper(t, "outlast", l.Path())).expect("over")
}

func init() {
	// flood NAME: connects as often as it can and says nothing, and tells how it was first refused.
	helpers["flood"] = func(args []string) error {
		var once sync.Once
		return flood(args[0], func(first []byte, conn net.Conn) {
			said := refusal(first, conn)
			once.Do(func() { fmt.Println(said) })
		}, func() {})
	}
	// outlast NAME: does so too, and tells that a connection that was taken has ended.
	helpers["outlast"] = func(args []string) error {
		return flood(args[0], func([]byte, net.Conn) {}, sync.OnceFunc(func() { fmt.Println("over") }))
	}
}

// flood connects as often as it can and says nothing. It calls refused with what the server says first, and over when a connection ends.
func flood(name string, refused func(first []byte, conn net.Conn), over func()) error {
	for {
		conn, _, err := Dial(context.Background(), name, DialOptions{Allow: func(Peer) error { return nil }})
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			first := make([]byte, 1)
			if _, err := io.ReadFull(conn, first); err == nil {
				refused(first, conn)
			} else {
				over()
			}
		}()
	}
}

// However much is refused, the log gets few lines, and they say how much there was.
func TestRefusalsAreLoggedRarely(t *testing.T) {
	var log strings.Builder
	s := &server{gate: Gate{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	const events = 1000
	for range events {
		s.log("a client was refused", Peer{UID: 1, PID: 2}, errOdd)
	}
	lines, counted := 0, s.silent
	for line := range strings.Lines(log.String()) {
		_, n, found := strings.Cut(strings.TrimSpace(line), "not_logged=")
		require.True(t, found, line)
		require.Contains(t, line, `msg="tandem: a client was refused" uid=1 pid=2 err=odd`)
		silent, err := strconv.Atoi(n)
		require.NoError(t, err)
		lines++
		counted += 1 + silent
	}
	require.Equal(t, events, counted)
	require.Less(t, lines, events/10)
}

// A client that says hello byte by byte does not get more time for it.
func TestSlowHello(t *testing.T) {
	l := listen(t, socketIn(t))
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, Gate{HelloTimeout: 200 * time.Millisecond}, func(_ context.Context, c *Client) {
			for { // a hello without end
				if _, err := c.Conn.Read(make([]byte, 1)); err != nil {
					done <- err
					return
				}
			}
		})
	}()
	conn := dial(t, l.Path())
	for {
		if _, err := conn.Write([]byte{1}); err != nil {
			break
		}
	}
	var timeout net.Error
	require.ErrorAs(t, <-done, &timeout)
	require.True(t, timeout.Timeout())
	cancel()
	require.ErrorIs(t, <-served, context.Canceled)
}

// A client that has been established has all the time it wants.
func TestNoTimeoutAfterTheHello(t *testing.T) {
	l := listen(t, socketIn(t))
	serveEcho(t, l, Gate{HelloTimeout: 10 * time.Second}) // a hello takes less, however busy the machine is
	conn := dial(t, l.Path())
	hello(t, conn)
	silent := dial(t, l.Path())
	require.Equal(t, io.EOF.Error(), fmt.Sprint(read(silent)), "its time is over")
	_, err := conn.Write([]byte{'x'})
	require.NoError(t, err)
	require.NoError(t, read(conn))
}

func read(conn net.Conn) error {
	_, err := conn.Read(make([]byte, 1))
	return err
}

// A check of the user's that takes long holds up nobody.
func TestSlowCheck(t *testing.T) {
	l := listen(t, socketIn(t))
	var calls atomic.Int32
	checking, release := make(chan struct{}), make(chan struct{})
	serveEcho(t, l, Gate{Allow: func(Peer) error {
		if calls.Add(1) > 1 {
			return nil
		}
		close(checking)
		<-release
		return errOdd
	}})
	held := dial(t, l.Path())
	<-checking
	for range 5 {
		require.Equal(t, "welcome", answer(dial(t, l.Path())))
	}
	close(release)
	require.Equal(t, "refused by the other side: "+ErrNotAllowed.Error(), answer(held))
}
