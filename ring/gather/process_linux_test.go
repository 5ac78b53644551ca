package gather

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ring"
)

// peer is a producer in a process of its own.
type peer struct {
	cmd  *exec.Cmd
	link *ring.Link

	got    uint64
	marked bool  // it has said that it will publish nothing more
	out    error // as reported
}

const (
	tagNumber = iota
	tagMark
)

// startPeer starts helper name in another process, and exchanges segments with it.
func startPeer(t testing.TB, name string) *peer {
	t.Helper()
	ours, theirs, err := ring.Socketpair()
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(t, cmd.Start())
	theirs.Close()
	p := &peer{cmd: cmd}
	t.Cleanup(func() { p.end() })
	p.link, err = ring.Exchange(context.Background(), ours, ring.MinSize)
	require.NoError(t, err)
	return p
}

// end kills the process and frees the memory, if that has not happened.
func (p *peer) end() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
	if p.link != nil {
		_ = p.link.Close()
	}
}

// helperLink is the helper's end.
func helperLink() *ring.Link {
	conn, err := net.FileConn(os.NewFile(3, "ring"))
	var l *ring.Link
	if err == nil {
		l, err = ring.Exchange(context.Background(), conn.(*net.UnixConn), 64<<10)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
	return l
}

func init() {
	// source sends numbers until it is killed.
	helpers["source"] = func() {
		p := helperLink().Producer
		for n := uint64(0); ; n++ {
			if p.Send(context.Background(), tagNumber, number(n, int(n%100)), nil) != nil {
				return // the test is over
			}
		}
	}
	// half publishes some numbers and a mark, and is then in the middle of a batch and of a record.
	helpers["half"] = func() {
		p := helperLink().Producer
		ctx := context.Background()
		for n := range uint64(100) {
			if err := p.Send(ctx, tagNumber, number(n, 20), nil); err != nil {
				panic(err)
			}
		}
		if err := p.Send(ctx, tagMark, nil, nil); err != nil {
			panic(err)
		}
		if err := p.Append(tagNumber, number(100, 20)); err != nil { // committed, not published
			panic(err)
		}
		buf, err := p.TryClaim(1000)
		if err != nil {
			panic(err)
		}
		copy(buf, number(101, 200)) // of a record that will not be
		select {}
	}
	// goodbye publishes some numbers and exits in order.
	helpers["goodbye"] = func() {
		l := helperLink()
		for n := range uint64(100) {
			if err := l.Producer.Send(context.Background(), tagNumber, number(n, 20), nil); err != nil {
				panic(err)
			}
		}
		l.Close()
	}
}

// read takes records until enough says so, or fails the test. Each end has to be a peer that is gone.
func read(ctx context.Context, t *testing.T, g *Consumer[*peer], enough func() bool) {
	t.Helper()
	for !enough() {
		r, p, ok, err := g.Next()
		switch {
		case err != nil:
			require.NoError(t, p.out, "reported twice")
			require.ErrorIs(t, err, ring.ErrPeerGone)
			p.out = err
			p.end()
		case ok && r.Tag == tagMark:
			p.marked = true
		case ok:
			require.False(t, p.marked, "more than what was published")
			require.Equal(t, p.got, numberOf(t, r.Data))
			p.got++
		default:
			require.NoError(t, g.Wait(ctx))
		}
	}
}

// Producers are killed at any moment, and others take their places. What each had published comes
// without a gap, and then its end. Those that live go on.
func TestKill(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range waits {
		var g Consumer[*peer]
		g.SetWait(wait)
		add := func() *peer {
			p := startPeer(t, "source")
			require.NoError(t, g.Add(p.link.Consumer, p))
			return p
		}
		lives := add() // to the end
		peers := []*peer{lives, add(), add(), add()}
		for range scaled(30) {
			p := add()
			after := uint64(rand.IntN(3000))
			read(ctx, t, &g, func() bool { return p.got > after })
			require.NoError(t, p.cmd.Process.Kill())
			before := lives.got
			read(ctx, t, &g, func() bool { return p.out != nil && lives.got > before })
		}
		require.Equal(t, 4, g.Len())
		g.Close()
		for _, p := range peers {
			p.end()
		}
	}
}

// A producer that dies in the middle of a record, and of a batch that is not published, leaves
// nothing of them.
func TestKillInTheMiddleOfARecord(t *testing.T) {
	ctx := watchdog(t)
	var g Consumer[*peer]
	others := startPeer(t, "source")
	require.NoError(t, g.Add(others.link.Consumer, others))
	for range scaled(20) {
		p := startPeer(t, "half")
		require.NoError(t, g.Add(p.link.Consumer, p))
		read(ctx, t, &g, func() bool { return p.marked })
		require.NoError(t, p.cmd.Process.Kill())
		before := others.got
		read(ctx, t, &g, func() bool { return p.out != nil && others.got > before })
		require.EqualValues(t, 100, p.got)
	}
}

// A producer that ends in order is reported like any other.
func TestGoodbye(t *testing.T) {
	ctx := watchdog(t)
	var g Consumer[*peer]
	var peers []*peer
	for range 3 {
		p := startPeer(t, "goodbye")
		require.NoError(t, g.Add(p.link.Consumer, p))
		peers = append(peers, p)
	}
	read(ctx, t, &g, func() bool { return g.Len() == 0 })
	for _, p := range peers {
		require.EqualValues(t, 100, p.got)
	}
}

// A producer that is stopped holds nobody up. When it goes on, its records come as if nothing had been.
func TestStop(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range waits {
		var g Consumer[*peer]
		g.SetWait(wait)
		var peers []*peer
		for range 3 {
			p := startPeer(t, "source")
			require.NoError(t, g.Add(p.link.Consumer, p))
			peers = append(peers, p)
		}
		for range scaled(20) {
			p := peers[rand.IntN(2)]
			other := peers[2]
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
			var status unix.WaitStatus
			_, err := unix.Wait4(p.cmd.Process.Pid, &status, unix.WUNTRACED, nil)
			require.NoError(t, err)
			require.True(t, status.Stopped())
			enough := other.got + uint64(rand.IntN(5000))
			read(ctx, t, &g, func() bool { return other.got > enough })
			require.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
			again := p.got + 2000 // more than fits its ring
			read(ctx, t, &g, func() bool { return p.got > again })
		}
		// Killed while it is stopped.
		p := peers[0]
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
		require.NoError(t, p.cmd.Process.Kill())
		read(ctx, t, &g, func() bool { return p.out != nil })
		g.Close()
		for _, p := range peers {
			p.end()
		}
	}
}

// Close of the link by the host ends a producer that is blocked.
func TestHostCloses(t *testing.T) {
	p := startPeer(t, "source")
	require.NoError(t, p.link.Close())
	require.NoError(t, p.cmd.Wait(), "it exits, as its Send fails")
	require.True(t, errors.Is(p.link.Err(), ring.ErrClosed))
}
