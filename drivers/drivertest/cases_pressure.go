package drivertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// held bounds what a link may hold of frames that nobody has read yet, in
// bytes: the largest frame that the cases below send, and buffers.
const held = 48 << 20

// patience is how long a Send on a link that may be full is given. The cases
// are right whatever it is.
const patience = 50 * time.Millisecond

var pressureCases = []testCase{
	{"StalledSmall", func(t *testing.T, s *suite) { testStalled(t, s, 100) }},
	{"StalledPage", func(t *testing.T, s *suite) { testStalled(t, s, 5000) }},
	{"StalledMany", testStalledMany},
	{"StalledManyLarge", testStalledManyLarge},
	{"RefusedHalfway", func(t *testing.T, s *suite) { testStalled(t, s, 700<<10) }},
	{"RefusedEarly", func(t *testing.T, s *suite) { testStalled(t, s, 9<<20) }},
	{"Stopped", testStopped},
	{"StalledHost", testStalledHost},
	{"CloseBlockedSend", func(t *testing.T, s *suite) { testEndBlockedSend(t, s, closeLink) }},
	{"ShutdownBlockedSend", func(t *testing.T, s *suite) { testEndBlockedSend(t, s, drivers.Link.Shutdown) }},
	{"KillBlockedSend", testKillBlockedSend},
}

func closeLink(l drivers.Link) { _ = l.Close() }

// fill sends frames of size bytes until the link takes no more, and counts
// those that it took. It returns the tx that follows the last it tried.
func (p *peer) fill(sent *tally, tx uint64, size int) uint64 {
	p.t.Helper()
	buf := make([]byte, size)
	before := sent.Bytes // what came before has been read
	for full := false; !full; tx++ {
		pattern(tx, buf)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := p.link.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: buf})
		cancel()
		clear(buf)
		if err != nil {
			require.ErrorIs(p.t, err, context.DeadlineExceeded)
			tx++ // what was refused is not tried again
			full, err = p.refuses(tx, size)
			require.NoError(p.t, err)
		}
		if full {
			continue
		}
		sent.sent(tx, size)
		if sent.Bytes-before > held {
			p.t.Fatalf("the link took %d bytes that nobody reads; at most %d can be right", sent.Bytes-before, held)
		}
	}
	return tx
}

// refuses sends a frame and reports whether the link is full: then Send blocks,
// until its context ends. That this process was not given the time to send is
// no proof.
func (p *peer) refuses(tx uint64, size int) (bool, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- sendBlocked(ctx, p.link, tx, size) }()
	await(func() bool { return len(result) > 0 || parked("sendBlocked", 1) })
	cancel()
	err := <-result
	if errors.Is(err, context.Canceled) {
		return true, nil
	}
	return false, err
}

// testStalled: if the receiver does not read, Send blocks until its context
// ends. Then the link goes on as if the frame had never been, also if a part of
// it had been sent when the context ended.
func testStalled(t *testing.T, s *suite, size int) {
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := p.fill(&sent, 0, size)
	tx = p.fill(&sent, tx, size) // room may be left for a small one
	tx = p.fill(&sent, tx, 1)
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() { failed <- sendBlocked(ctx, p.link, tx, size) }()
	awaitParked("sendBlocked", 1)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)

	p.tell("go")
	for range 100 {
		tx++
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size/3)})
		sent.sent(tx, size/3)
	}
	assert.Equal(t, sent, p.report(), "a frame arrives just if Send has not failed")
	p.end()
}

// sendBlocked is a Send with a name that stacks show.
//
//go:noinline
func sendBlocked(ctx context.Context, l drivers.Link, tx uint64, size int) error {
	return l.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size)})
}

// firstBlocks waits, after the first of many senders was started, until that one blocks:
// before, a link may take a small frame of another one to send it with the first.
func firstBlocks(i uint64) {
	if i == 0 {
		awaitParked("sendBlocked", 1)
	}
}

// testStalledMany: many senders that block at once all get on again, and those
// whose context ends leave no trace.
func testStalledMany(t *testing.T, s *suite) {
	const senders, size = 50, 2000
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := p.fill(&sent, 0, size)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var giveUp, goOn sync.WaitGroup
	for i := range uint64(senders) {
		if i%2 == 0 {
			giveUp.Go(func() {
				assert.ErrorIs(t, sendBlocked(ctx, p.link, tx+i, size), context.Canceled)
			})
		} else {
			goOn.Go(func() {
				assert.NoError(t, sendBlocked(context.Background(), p.link, tx+i, size))
			})
		}
		firstBlocks(i)
	}
	awaitParked("sendBlocked", senders)
	cancel()
	giveUp.Wait()
	p.tell("go")
	goOn.Wait()
	got := p.report()
	assert.Equal(t, sent.N+senders/2, got.N)
	assert.Equal(t, sent.Bytes+senders/2*size, got.Bytes)
	assert.Empty(t, got.Wrong)
	p.end()
}

// testStalledManyLarge: the same where none fits the link.
func testStalledManyLarge(t *testing.T, s *suite) {
	const senders, size = 20, 1500 << 10
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := p.fill(&sent, 0, 2000)
	var wg sync.WaitGroup
	for i := range uint64(senders) {
		wg.Go(func() { assert.NoError(t, sendBlocked(context.Background(), p.link, tx+i, size)) })
	}
	awaitParked("sendBlocked", senders)
	p.tell("go")
	wg.Wait()
	got := p.report()
	assert.Equal(t, sent.N+senders, got.N)
	assert.Equal(t, sent.Bytes+senders*size, got.Bytes)
	assert.Empty(t, got.Wrong)
	p.end()
}

// testStopped: the same if the receiver's process is stopped, wherever it was.
func testStopped(t *testing.T, s *suite) {
	if sigStop == nil {
		t.Skip("no SIGSTOP on this system")
	}
	p := s.start(t, script{Do: "sink"})
	p.expect("ready")
	var sent tally
	tx := uint64(0)
	for range 5 {
		for _, size := range []int{64, 3000} {
			require.NoError(t, p.process.Signal(sigStop))
			tx = p.fill(&sent, tx, size)
			large := make(chan error, 1)
			go func() { large <- sendBlocked(context.Background(), p.link, tx, 300<<10) }()
			awaitParked("sendBlocked", 1)
			require.NoError(t, p.process.Signal(sigContinue))
			require.NoError(t, <-large)
			sent.sent(tx, 300<<10)
			for range 100 {
				tx++
				p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, size)})
				sent.sent(tx, size)
			}
			tx++
		}
	}
	assert.Equal(t, sent, p.report())
	p.end()
}

// testStalledHost: a host that does not read stops its worker, and loses nothing.
func testStalledHost(t *testing.T, s *suite) {
	const n, size = 2000, 40 << 10 // 80 MB: more than any link may hold
	p := s.start(t, script{Do: "source", N: n, Size: size})
	await(p.link.Ready)
	before := residentMemory(p.process.PID())
	for i := range uint64(n) {
		f := p.receive()
		if f.Tx != i || len(f.Payload) != size {
			t.Fatalf("got frame %d of %d bytes, want %d of %d", f.Tx, len(f.Payload), i, size)
		}
		require.NoError(t, checkPattern(i, f.Payload))
		if i == n/2 {
			if after := residentMemory(p.process.PID()); after > before+held {
				t.Errorf("the worker grew from %d to %d bytes while it was blocked", before, after)
			}
		}
	}
	p.expect("sent")
	p.end()
}

// blocked returns a worker that does not read, a full link to it, and the
// result of n Sends that block on it.
func (s *suite) blocked(t *testing.T, size, n int) (*peer, chan error) {
	t.Helper()
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := p.fill(&sent, 0, size)
	result := make(chan error, n)
	for i := range uint64(n) {
		go func() { result <- sendBlocked(context.Background(), p.link, tx+i, size) }()
		firstBlocks(i)
	}
	awaitParked("sendBlocked", n)
	return p, result
}

// testEndBlockedSend: ending the link ends a Send that blocks.
func testEndBlockedSend(t *testing.T, s *suite, end func(drivers.Link)) {
	for _, size := range []int{100, 1 << 20} {
		p, result := s.blocked(t, size, 5)
		end(p.link)
		for range 5 {
			require.ErrorIs(t, <-result, ipc.ErrDisconnected)
		}
		p.tell("go")
		p.end()
	}
}

// testKillBlockedSend: so does the death of the peer.
func testKillBlockedSend(t *testing.T, s *suite) {
	for _, size := range []int{100, 1 << 20} {
		p, result := s.blocked(t, size, 5)
		kill(t, p)
		for range 5 {
			require.ErrorIs(t, <-result, ipc.ErrPeerGone)
		}
		p.dead()
	}
}
