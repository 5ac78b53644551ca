//go:build unix

package netconn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/netconn"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("netconn", serveTest)
	worker.Main("web", serveWeb)
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

// The contract of the test worker, which does with its ends of connections what it is told.
var (
	begin = ipc.NewMethod[act, int]("netconn_test.begin", ipc.WithTimeout(0))  // an act, by its number
	end   = ipc.NewMethod[int, done]("netconn_test.end", ipc.WithTimeout(0))   // waits until it is done
	heap  = ipc.NewMethod[int, stats]("netconn_test.heap", ipc.WithTimeout(0)) // what the worker has
)

// act is what to do with connection number Conn.
type act struct {
	Conn int
	What string // accept, dial, read, write, write on, answer, close, close write, close read
	N    int    // bytes
	Name string // of the listener that is dialled
}

// done says what has become of an act.
type done struct {
	N    int    // bytes, or the number of a connection
	Good bool   // they were those of a pattern
	Err  string // how it has ended, as kindOf has it
}

type stats struct{ Goroutines, Conns int }

// kindOf names errors of connections.
func kindOf(err error) string {
	var e *ipc.Error
	switch {
	case err == nil:
		return ""
	case err == io.EOF:
		return "eof"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, ipc.ErrPeerGone):
		return "gone"
	case errors.Is(err, ipc.ErrDisconnected):
		return "disconnected"
	case errors.Is(err, ipc.ErrProtocol):
		return "protocol"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, syscall.EPIPE):
		return "broken"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.As(err, &e):
		return e.Code.String()
	}
	return err.Error()
}

// stage is the worker's part: connections, and what is being done with them.
type stage struct {
	held *netconn.Listener

	mu    sync.Mutex
	conns []*held
	acts  []chan done
}

// held is a connection, and how far it was written and read. One act at a time does either.
type held struct {
	*netconn.Conn
	writing, reading sync.Mutex
	at, from         int64
}

func serveTest() error {
	s := worker.NewServer()
	g := &stage{held: netconn.Listen(s, "held")}
	echo := netconn.Listen(s, "echo")
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // until either fails
				_ = c.Close()
			}()
		}
	}()
	netconn.Listen(s, "full", netconn.WithBacklog(2)) // and accepts nothing
	closed := netconn.Listen(s, "closed")
	_ = closed.Close()
	worker.Handle(s, begin, g.begin)
	worker.Handle(s, end, func(_ context.Context, n int) (done, error) {
		g.mu.Lock()
		c := g.acts[n]
		g.mu.Unlock()
		return <-c, nil
	})
	worker.Handle(s, heap, func(context.Context, int) (stats, error) { return g.stats(), nil })
	serveHostile(s)
	return s.Serve(context.Background())
}

func (g *stage) begin(ctx context.Context, a act) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan done, 1)
	g.acts = append(g.acts, c)
	host := worker.Host(ctx)
	go func() {
		d, err := g.do(host, a)
		d.Err = kindOf(err)
		c <- d
	}()
	return len(g.acts) - 1, nil
}

func (g *stage) add(c net.Conn) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, &held{Conn: c.(*netconn.Conn)})
	return len(g.conns) - 1
}

func (g *stage) do(host ipc.Caller, a act) (d done, err error) {
	var c net.Conn
	switch a.What {
	case "accept":
		if c, err = g.held.Accept(); err == nil {
			d.N = g.add(c)
		}
		return d, err
	case "dial":
		if c, err = netconn.Dial(context.Background(), host, a.Name); err == nil {
			d.N = g.add(c)
		}
		return d, err
	}
	g.mu.Lock()
	conn := g.conns[a.Conn]
	g.mu.Unlock()
	switch a.What {
	case "read":
		conn.reading.Lock()
		defer conn.reading.Unlock()
		d.N, d.Good, err = readPattern(conn, a.N, conn.from)
		conn.from += int64(d.N)
	case "write", "write on": // the latter until it fails
		conn.writing.Lock()
		defer conn.writing.Unlock()
		for again := true; again && err == nil; again = a.What == "write on" {
			var n int
			n, err = conn.Write(pattern(a.N, conn.at))
			conn.at += int64(n)
			d.N += n
		}
	case "answer": // the end of what the other side sends
		if _, err = conn.Read(make([]byte, 1)); err == io.EOF {
			_, _ = conn.Write(pattern(1, 0)) // perhaps nobody takes it
		}
	case "close":
		err = conn.Close()
	case "close write":
		err = conn.CloseWrite()
	case "close read":
		err = conn.CloseRead()
	default:
		err = errors.New("no such act: " + a.What)
	}
	return d, err
}

// pattern returns n bytes of an endless sequence, from at on.
func pattern(n int, at int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = patternAt(at + int64(i))
	}
	return b
}

func patternAt(i int64) byte { return byte(i*7 + i>>8 + i>>16) }

// readPattern reads n bytes, in pieces of random sizes, and says whether they are the pattern's
// from at on.
func readPattern(r io.Reader, n int, at int64) (read int, good bool, err error) {
	good = true
	b := make([]byte, 100_000)
	for read < n && err == nil {
		var k int
		k, err = r.Read(b[:min(1+rand.IntN(len(b)), n-read)])
		for i, got := range b[:k] {
			good = good && got == patternAt(at+int64(read+i))
		}
		read += k
	}
	return read, good, err
}

// client is what the tests need of a worker.Client of any driver.
type client interface {
	ipc.Caller
	worker.Registrar
	PID() int
	Close() error
}

// starters start a worker with each driver.
var starters = map[string]func(t *testing.T, opts ...worker.Option) client{
	"shm":    func(t *testing.T, opts ...worker.Option) client { return start(t, shm.Driver{}, opts) },
	"socket": func(t *testing.T, opts ...worker.Option) client { return start(t, socket.Driver{}, opts) },
}

func start[C drivers.Channel](t *testing.T, d drivers.Driver[C], opts []worker.Option) *worker.Client[C] {
	t.Helper()
	opts = append([]worker.Option{worker.WithStartTimeout(time.Minute), worker.WithGrace(100 * time.Millisecond)}, opts...)
	w, err := worker.Spawn(context.Background(), worker.Self("netconn"), d, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// eachDriver runs a test with a worker of each driver.
func eachDriver(t *testing.T, test func(t *testing.T, w client), opts ...worker.Option) {
	for name, start := range starters {
		t.Run(name, func(t *testing.T) { test(t, start(t, opts...)) })
	}
}

// pair is a connection between the test and its worker.
type pair struct {
	*netconn.Conn // the end of the test
	t             *testing.T
	w             client
	number        int // of the worker's end
	dialled       bool
}

// begin makes the worker begin an act with its end. wait waits until it is done.
func (p *pair) begin(what string, n int) (wait func() done) {
	p.t.Helper()
	return beginWith(p.t, p.w, act{Conn: p.number, What: what, N: n})
}

// do makes the worker do an act with its end.
func (p *pair) do(what string, n int) done {
	p.t.Helper()
	return p.begin(what, n)()
}

func beginWith(t *testing.T, w client, a act) (wait func() done) {
	t.Helper()
	n, err := begin.Call(context.Background(), w, a)
	require.NoError(t, err)
	return func() done {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		d, err := end.Call(ctx, w, n)
		require.NoError(t, err, "the worker's %s", a.What)
		return d
	}
}

func (g *stage) stats() stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return stats{goroutines(), len(g.conns)}
}

// dialPair returns a connection that the test has dialled.
func dialPair(t *testing.T, w client) *pair {
	t.Helper()
	c, err := netconn.Dial(t.Context(), w, "held")
	require.NoError(t, err)
	d := beginWith(t, w, act{What: "accept"})()
	require.Empty(t, d.Err)
	return &pair{c.(*netconn.Conn), t, w, d.N, true}
}

// acceptPair returns a connection that the test has accepted from l.
func acceptPair(t *testing.T, w client, l *netconn.Listener) *pair {
	t.Helper()
	dialled := beginWith(t, w, act{What: "dial", Name: l.Addr().(netconn.Addr).Name})
	c, err := l.Accept()
	require.NoError(t, err)
	d := dialled()
	require.Empty(t, d.Err)
	return &pair{c.(*netconn.Conn), t, w, d.N, false}
}

// eachPair runs a test with connections of both drivers, of which the test has dialled one and
// accepted the other. more makes another such connection over the same link.
func eachPair(t *testing.T, test func(t *testing.T, p *pair, more func() *pair), opts ...worker.Option) {
	eachDriver(t, func(t *testing.T, w client) {
		l := netconn.Listen(w, "back")
		pairs := map[string]func(t *testing.T) *pair{
			"dialled":  func(t *testing.T) *pair { return dialPair(t, w) },
			"accepted": func(t *testing.T) *pair { return acceptPair(t, w, l) },
		}
		for name, connect := range pairs {
			t.Run(name, func(t *testing.T) {
				more := func() *pair {
					p := connect(t)
					t.Cleanup(func() { p.Close() })
					return p
				}
				test(t, more(), more)
			})
		}
	}, opts...)
}

// read reads n bytes of the pattern from at on, and wants all of them.
func (p *pair) read(n int, at int64) {
	p.t.Helper()
	got, good, err := readPattern(p, n, at)
	require.NoError(p.t, err)
	require.Equal(p.t, n, got)
	require.True(p.t, good, "other bytes than were written")
}

// within runs f, and fails if it does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	over := make(chan struct{})
	go func() {
		defer close(over)
		f()
	}()
	select {
	case <-over:
	case <-time.After(time.Minute):
		t.Fatalf("%s has not ended", what)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("still not: %s", what)
		}
	}
}

// stop stops the worker's process, and waits until it has stopped.
func stop(t *testing.T, w client) {
	t.Helper()
	require.NoError(t, syscall.Kill(w.PID(), syscall.SIGSTOP))
	eventually(t, "the worker has stopped", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.PID()))
		return err != nil || bytes.Contains(status, []byte(") T "))
	})
}

// blocked waits until n goroutines wait in a method of a connection.
func blocked(t *testing.T, in string, n int) {
	t.Helper()
	eventually(t, "a goroutine waits in "+in, func() bool { return waiting(in) >= n })
}
