//go:build linux

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// Wherever a connection has got to when the context ends, Serve returns, with the context's cause.
func TestServeEndsWithItsContext(t *testing.T) {
	ended := errors.New("enough")
	for name, c := range map[string]struct {
		gate   Gate
		handle func(ctx context.Context, c *Client, at chan<- bool) // tells at when it is there
	}{
		"nobody is there": {Gate{}, nil},
		"it awaits the hello": {Gate{}, func(ctx context.Context, c *Client, at chan<- bool) {
			at <- true
			_, err := c.Conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, ended, c.Established())
		}},
		"it cannot send its hello": {Gate{}, func(ctx context.Context, c *Client, at chan<- bool) {
			at <- true
			_, err := io.Copy(c.Conn, endless{})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, ended, c.Admit())
		}},
		"it is checked": {Gate{Allow: func(Peer) error { return nil }}, func(ctx context.Context, c *Client, at chan<- bool) {
			at <- true
			<-ctx.Done()
		}},
		"it has a place": {Gate{}, func(ctx context.Context, c *Client, at chan<- bool) {
			require.NoError(t, c.Admit())
			at <- true
			_, err := c.Conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, ended, c.Established())
		}},
		"it is served": {Gate{}, func(ctx context.Context, c *Client, at chan<- bool) {
			require.NoError(t, c.Established())
			at <- true
			<-ctx.Done()
			require.Equal(t, ended, context.Cause(ctx))
			require.NoError(t, c.Established(), "it has been before")
			_, err := c.Conn.Write([]byte{'x'})
			require.NoError(t, err, "how it ends is its own matter")
		}},
		"it has gone": {Gate{}, func(ctx context.Context, c *Client, at chan<- bool) {
			c.Conn.Close()
			at <- true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, socketIn(t))
			ctx, cancel := context.WithCancelCause(t.Context())
			at := make(chan bool, 1)
			done := make(chan error, 1)
			go func() {
				done <- Serve(ctx, l, c.gate, func(ctx context.Context, client *Client) { c.handle(ctx, client, at) })
			}()
			if c.handle != nil {
				dial(t, l.Path())
				<-at
			}
			cancel(ended)
			require.Equal(t, ended, <-done)
			require.Equal(t, ended, Serve(ctx, l, c.gate, echo), "and so before it begins")
			serveEcho(t, l, Gate{})
			works(t, l.Path())
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// When the listener is closed, nobody new is taken, and all who are there go on.
func TestServeAfterClose(t *testing.T) {
	l := listen(t, socketIn(t))
	done := make(chan error, 1)
	there := make(chan bool, 2)
	go func() {
		done <- Serve(t.Context(), l, Gate{}, func(ctx context.Context, c *Client) { there <- true; echo(ctx, c) })
	}()
	served, half := dial(t, l.Path()), dial(t, l.Path())
	hello(t, served)
	<-there
	<-there
	require.NoError(t, l.Close())
	_, _, err := Dial(t.Context(), l.Path(), DialOptions{})
	require.ErrorIs(t, err, ErrNotServed)
	require.Equal(t, "welcome", answer(half))
	require.Len(t, done, 0)
	require.NoError(t, served.Close())
	require.NoError(t, half.Close())
	require.NoError(t, <-done)
	require.NoError(t, Serve(t.Context(), l, Gate{}, echo), "it is closed")
}

// Clients that connect, say hello and hang up at any moment, while others do: each that goes on is
// served, and nothing is counted in the end.
func TestClientsComeAndGo(t *testing.T) {
	l := listen(t, socketIn(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, Gate{MaxClients: 8, MaxHellos: 8}, echo) }()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 50 {
				conn, _, err := Dial(t.Context(), l.Path(), DialOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if (i+n)%3 > 0 {
					_, _ = conn.Write([]byte{'?'})
				}
				if (i+n)%3 > 1 {
					_ = read(conn)
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
	// All places are free: as many as there may be get in.
	var in []net.Conn
	for range 8 {
		in = append(in, welcome(t, l.Path()))
	}
	require.Equal(t, "full: tandem: the server takes at most 8 clients", answer(dial(t, l.Path())))
	for _, conn := range in {
		conn.Close()
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

// A server without descriptors tells clients so, serves those that it has, and takes others when it
// has some again.
func TestServerWithoutDescriptors(t *testing.T) {
	name := socketIn(t)
	p := start(t, helper(t, "short", name, ""))
	p.expect("ready")
	old := dial(t, name)
	hello(t, old)
	p.tell()
	p.expect("short")
	for range 20 {
		require.Regexp(t, `^full: tandem: out of open files \(RLIMIT_NOFILE is [0-9]+\)`, answer(dial(t, name)))
	}
	_, err := old.Write([]byte{'?'})
	require.NoError(t, err)
	require.NoError(t, read(old))
	p.tell()
	p.expect("lifted")
	hello(t, dial(t, name))
	p.end()
}

// If others take what it had in reserve, clients wait until it has descriptors again.
func TestServerWithoutReserve(t *testing.T) {
	name := socketIn(t)
	p := start(t, helper(t, "short", name, "greedy"))
	p.expect("ready")
	hello(t, dial(t, name)) // by then it has a reserve
	p.tell()
	p.expect("short")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if said := p.says(); said != "the reserve is gone\n" {
			t.Errorf("it said %q", said)
		}
	}()
	got := make(chan string)
	waiting := 0
	come := func() {
		conn := dial(t, name)
		go func() { got <- answer(conn) }()
		waiting++
	}
	for over := false; !over; {
		come()
		select {
		case said := <-got:
			require.Regexp(t, "^full: tandem: out of open files", said, "it was taken by what was in reserve")
			waiting--
		case <-gone:
			over = true
		}
	}
	for range 5 {
		come()
	}
	p.tell()
	p.expect("lifted")
	for ; waiting > 0; waiting-- {
		if said := <-got; said != "welcome" {
			require.Regexp(t, "^full: tandem: out of open files", said)
		}
	}
	hello(t, dial(t, name))
	p.end()
}

func init() {
	// short NAME GREEDY: serves, and has no descriptors for a while. If it is greedy it takes those that become
	// free.
	helpers["short"] = func(args []string) error {
		l, err := Listen(args[0], ListenOptions{})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, l, Gate{}, echo) }()
		fmt.Println("ready")
		told()
		var hoard []*os.File
		if err := leaktest.UnderLimit(unix.RLIMIT_NOFILE, leaktest.FilesFor(0), func() {
			fmt.Println("short")
			for args[1] != "" && len(hoard) < 2 { // it has two in reserve
				f, err := os.Open(os.DevNull)
				if err != nil {
					time.Sleep(time.Microsecond)
					continue
				}
				hoard = append(hoard, f)
			}
			if args[1] != "" {
				fmt.Println("the reserve is gone")
			}
			told()
		}); err != nil {
			return err
		}
		for _, f := range hoard {
			f.Close()
		}
		fmt.Println("lifted")
		told()
		cancel()
		if err := <-done; err != context.Canceled {
			return err
		}
		return l.Close()
	}
}

// signal gets a value when something is written.
type signal chan struct{}

func (s signal) Write(b []byte) (int, error) {
	select {
	case s <- struct{}{}:
	default:
	}
	return len(b), nil
}

// When the listener fails, the contexts of the clients end, and Serve returns why.
func TestServeEndsWhenTheListenerFails(t *testing.T) {
	l := listen(t, socketIn(t))
	served, there, woken := make(chan error, 1), make(chan bool), make(signal, 1)
	go func() {
		served <- Serve(t.Context(), l, Gate{Log: slog.New(slog.NewTextHandler(woken, nil))}, func(ctx context.Context, c *Client) {
			require.NoError(t, c.Established())
			there <- true
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), syscall.ENOTSOCK)
		})
	}()
	conn, _, err := Dial(testContext(t), l.Path(), DialOptions{})
	require.NoError(t, err)
	defer conn.Close()
	<-there
	raw, err := l.ln.SyscallConn()
	require.NoError(t, err)
	other, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.Dup3(int(other.Fd()), int(fd), unix.O_CLOEXEC) }))
	require.NoError(t, err)
	require.NoError(t, l.ln.SetDeadline(past)) // nothing else wakes it
	<-woken
	require.NoError(t, l.ln.SetDeadline(time.Time{}))
	select {
	case err := <-served:
		require.ErrorIs(t, err, syscall.ENOTSOCK)
	case <-testContext(t).Done():
		t.Fatal("it goes on")
	}
}
