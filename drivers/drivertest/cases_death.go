package drivertest

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var deathCases = []testCase{
	{"Idle", testDeathIdle},
	{"AfterFrames", testDeathAfterFrames},
	{"AfterFramesUnread", testDeathAfterFramesUnread},
	{"WithOursUnread", testDeathWithOursUnread},
	{"InLargeFrame", testDeathInLargeFrame},
	{"WhileSending", testDeathWhileSending},
	{"ByHost", testDeathByHost},
	{"Signal", testSignal},
}

// deaths are the ways in which a worker can end a link.
var deaths = []string{"exit", "kill", "close"}

// kill ends the worker at once.
func kill(t *testing.T, p *peer) {
	t.Helper()
	require.NoError(t, p.process.Signal(os.Kill))
}

// dead checks that the link of a killed worker says so, and releases it. The
// reader role has to be free, and everything that had arrived has been read.
func (p *peer) dead() {
	p.t.Helper()
	exit := p.exited()
	assert.Equal(p.t, os.Signal(syscall.SIGKILL), exit.Signal)
	assert.Equal(p.t, -1, exit.Code)
	p.gone()
	p.release()
}

// gone checks that the link has ended because the peer did.
func (p *peer) gone() {
	p.t.Helper()
	for range 3 {
		f, err := receive(p.link)
		require.Error(p.t, err, "got frame %d of %d bytes, want the end", f.Tx, len(f.Payload))
		require.ErrorIs(p.t, err, ipc.ErrPeerGone)
		require.True(p.t, p.link.Ready())
		require.ErrorIs(p.t, p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrPeerGone)
	}
}

func (p *peer) release() {
	p.t.Helper()
	require.NoError(p.t, p.link.Close())
	require.NoError(p.t, p.channel.Close())
}

// awaitDeath returns when the worker has ended its link the way its script says.
func (p *peer) awaitDeath(death string) {
	p.t.Helper()
	if death == "close" {
		_, _ = p.lines.Peek(1) // it says so
	} else {
		p.exited()
	}
}

// over checks what the host sees of a worker that has ended its link the way
// that its script says, after the last frame was received.
func (p *peer) over(death string) {
	p.t.Helper()
	if death == "close" {
		p.expect("closed")
		_, err := receive(p.link)
		require.True(p.t, ended(err), "got error %v, want ErrPeerGone or ErrDisconnected", err)
		err = p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify})
		require.True(p.t, ended(err), "Send: got error %v, want ErrPeerGone or ErrDisconnected", err)
		require.Nil(p.t, p.process.Exit(), "the worker lives on")
		p.tell("bye")
		p.end()
		return
	}
	p.gone()
	exit := p.exited()
	assert.Equal(p.t, p.process.PID(), exit.PID)
	assert.Contains(p.t, exit.Stderr, lastWords)
	assert.Contains(p.t, p.process.Stderr(), lastWords)
	if death == "kill" {
		assert.Equal(p.t, os.Signal(syscall.SIGKILL), exit.Signal)
		assert.Equal(p.t, -1, exit.Code)
	} else {
		assert.Nil(p.t, exit.Signal)
		assert.Equal(p.t, exitAsked, exit.Code)
	}
	assert.ErrorIs(p.t, p.process.Signal(syscall.SIGTERM), os.ErrProcessDone)
	p.release()
}

// testDeathIdle: a host that sleeps on an idle link learns of the end.
func testDeathIdle(t *testing.T, s *suite) {
	for _, death := range deaths {
		p := s.start(t, script{Do: "source", Then: death, Ask: true})
		p.expect("sent")
		result := make(chan error, 1)
		go func() { result <- receiveAll(p.link, func(drivers.Frame) {}) }()
		awaitParked("receiveAll", 1)
		require.Nil(t, p.process.Exit())
		p.tell("now")
		err := <-result
		require.True(t, ended(err), "%s: got error %v, want ErrPeerGone or ErrDisconnected", death, err)
		p.over(death)
	}
}

// testDeathAfterFrames: whatever a worker has sent before its end arrives, and
// then the end.
func testDeathAfterFrames(t *testing.T, s *suite) {
	const n = 5000
	for _, death := range deaths {
		for _, size := range []int{200, 20 << 10} {
			p := s.start(t, script{Do: "source", N: n, Size: size, Random: true, Then: death})
			sizes := newSizes(size, true)
			for i := range uint64(n) {
				f, err := receive(p.link)
				require.NoError(t, err, "%s: the link ended after %d of %d frames", death, i, n)
				require.Equal(t, i, f.Tx)
				require.Len(t, f.Payload, sizes.next())
				require.NoError(t, checkPattern(i, f.Payload))
			}
			p.expect("sent")
			p.over(death)
		}
	}
}

// testDeathAfterFramesUnread: the same if the host reads when all is over.
func testDeathAfterFramesUnread(t *testing.T, s *suite) {
	const n = 50
	for _, death := range deaths {
		p := s.start(t, script{Do: "source", N: n, Size: 500, Then: death})
		p.expect("sent")
		p.awaitDeath(death)
		for i := range uint64(n) {
			f, err := receive(p.link)
			require.NoError(t, err, "%s: the link ended after %d of %d frames", death, i, n)
			require.Equal(t, i, f.Tx)
			require.NoError(t, checkPattern(i, f.Payload))
		}
		p.over(death)
	}
}

// testDeathWithOursUnread: the same if the worker has not read what we sent,
// which turns the end of a socket into an error.
func testDeathWithOursUnread(t *testing.T, s *suite) {
	const n = 50
	for _, death := range deaths {
		p := s.start(t, script{Do: "source", N: n, Size: 500, Hold: true, Then: death})
		for i := range uint64(n) {
			p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: payload(i, 500)})
		}
		p.tell("begin")
		p.expect("sent")
		p.awaitDeath(death)
		for i := range uint64(n) {
			f, err := receive(p.link)
			require.NoError(t, err, "%s: the link ended after %d of %d frames", death, i, n)
			require.Equal(t, i, f.Tx)
			require.NoError(t, checkPattern(i, f.Payload))
		}
		p.over(death)
	}
}

// receivePart asks n times for the large frame that a worker is sending, so
// that a part of it has arrived. If it is quick enough that is all of it.
func (p *peer) receivePart(n int) {
	p.t.Helper()
	for range n {
		f, ok, err := look(p.link)
		require.NoError(p.t, err)
		if ok {
			require.NoError(p.t, checkPattern(f.Tx, f.Payload))
			return
		}
	}
}

// testDeathInLargeFrame: the small frames before it arrive, no part of the
// large one does.
func testDeathInLargeFrame(t *testing.T, s *suite) {
	const n = 5
	for _, death := range deaths {
		for round := range 4 {
			p := s.start(t, script{Do: "large", N: n, Size: 24 << 20, Then: death})
			p.expect("blocked")
			for i := range uint64(n) {
				f := p.receive()
				require.Equal(t, i, f.Tx)
				require.NoError(t, checkPattern(i, f.Payload))
			}
			p.receivePart(round)
			p.tell("now")
			p.awaitDeath(death)
			// If the worker was quick enough all of it has been sent, and counts.
			if f, err := receive(p.link); err == nil {
				require.EqualValues(t, n, f.Tx)
				require.NoError(t, checkPattern(n, f.Payload))
			}
			p.over(death)
		}
	}
}

// testDeathWhileSending: a host that sends as fast as it can learns of the end
// by an error, whenever it comes.
func testDeathWhileSending(t *testing.T, s *suite) {
	for round := range 10 {
		p := s.start(t, script{Do: "sink"})
		p.expect("ready")
		size := 10 << round
		count := make(chan struct{}, 1)
		result := make(chan error, 1)
		go func() {
			for tx := uint64(0); ; tx++ {
				if err := sendBlocked(context.Background(), p.link, tx, size); err != nil {
					result <- err
					return
				}
				select {
				case count <- struct{}{}:
				default:
				}
			}
		}()
		for range 10 {
			<-count
		}
		kill(t, p)
		require.ErrorIs(t, <-result, ipc.ErrPeerGone)
		p.dead()
	}
}

// testDeathByHost: the host kills a worker that waits.
func testDeathByHost(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	p.echo(1, 10)
	kill(t, p)
	p.dead()
}

// testSignal: signals reach the worker until it was reaped.
func testSignal(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	select {
	case <-p.process.Done():
		t.Fatal("Done is closed while the process lives")
	default:
	}
	require.Nil(t, p.process.Exit())
	require.NoError(t, p.process.Signal(syscall.SIGTERM))
	exit := p.exited()
	assert.Equal(t, os.Signal(syscall.SIGTERM), exit.Signal)
	assert.ErrorContains(t, exit, "terminated")
	assert.ErrorIs(t, exit, ipc.ErrPeerGone)
	assert.ErrorIs(t, p.process.Signal(syscall.SIGTERM), os.ErrProcessDone)
	p.gone()
	p.release()
}
