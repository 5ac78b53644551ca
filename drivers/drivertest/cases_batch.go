package drivertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var batchCases = []testCase{
	{"Order", testBatchOrder},
	{"Concurrent", testBatchConcurrent},
	{"Limit", testBatchLimit},
	{"StalledSmall", func(t *testing.T, s *suite) { testBatchStalled(t, s, 500) }},
	{"StalledPage", func(t *testing.T, s *suite) { testBatchStalled(t, s, 3500) }},
	{"StalledLarge", func(t *testing.T, s *suite) { testBatchStalled(t, s, 300<<10) }},
	{"CloseBlocked", func(t *testing.T, s *suite) { testEndBlockedBatch(t, s, closeLink) }},
	{"ShutdownBlocked", func(t *testing.T, s *suite) { testEndBlockedBatch(t, s, drivers.Link.Shutdown) }},
	{"KillBlocked", testKillBlockedBatch},
	{"Claim", testClaim},
}

func notes(tx uint64, sizes ...int) []drivers.Frame {
	frames := make([]drivers.Frame, len(sizes))
	for i, size := range sizes {
		frames[i] = drivers.Frame{Kind: drivers.KindNotify, Tx: tx + uint64(i), Payload: payload(tx+uint64(i), size)}
	}
	return frames
}

// testBatchOrder: batches and single frames arrive complete, unchanged and in the order
// in which they were sent, whatever their sizes.
func testBatchOrder(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "sink"})
	p.expect("ready")
	random := rand.New(rand.NewPCG(5, 6))
	var sent tally
	tx := uint64(0)
	for round := range 3000 {
		sizes := make([]int, random.IntN(40))
		for i := range sizes {
			switch random.IntN(200) {
			case 0:
				sizes[i] = random.IntN(600 << 10)
			case 1, 2, 3, 4:
				sizes[i] = random.IntN(20 << 10)
			default:
				sizes[i] = random.IntN(200)
			}
		}
		frames := notes(tx, sizes...)
		n, err := p.link.SendBatch(context.Background(), frames)
		require.NoError(t, err)
		require.Equal(t, len(frames), n)
		for i, f := range frames {
			sent.sent(tx, sizes[i])
			clear(f.Payload) // it has left the payloads when it returns
			tx++
		}
		if round%3 == 0 {
			p.send(notes(tx, round%5000)[0])
			sent.sent(tx, round%5000)
			tx++
		}
	}
	assert.Equal(t, sent, p.report())
	p.end()
}

// testBatchConcurrent: the frames of many senders, in batches and alone, all arrive.
func testBatchConcurrent(t *testing.T, s *suite) {
	const senders, each = 32, 50
	p := s.start(t, script{Do: "sink"})
	p.expect("ready")
	var wg sync.WaitGroup
	for g := range uint64(senders) {
		wg.Go(func() {
			for i := range uint64(each) {
				tx := (g*each + i) * 4
				n, err := p.link.SendBatch(context.Background(), notes(tx, 100, 0, int(i)*100))
				assert.NoError(t, err)
				assert.Equal(t, 3, n)
				assert.NoError(t, p.link.Send(context.Background(), &notes(tx+3, 10)[0]))
			}
		})
	}
	wg.Wait()
	got := p.report()
	assert.Equal(t, 4*senders*each, got.N)
	assert.Equal(t, senders*(each*110+100*each*(each-1)/2), got.Bytes)
	assert.Empty(t, got.Wrong)
	p.end()
}

// testBatchLimit: a frame that is too large is refused, those before it are sent, and
// those behind it are not.
func testBatchLimit(t *testing.T, s *suite) {
	for _, limit := range []int{drivers.MinMaxMessage, 64 << 10} {
		p := s.start(t, script{Do: "sink", MaxMessage: limit})
		p.expect("ready")
		n, err := p.link.SendBatch(context.Background(), notes(0, 10, 20, limit, 30))
		require.Equal(t, 2, n)
		var size *ipc.SizeError
		require.ErrorAs(t, err, &size)
		require.Equal(t, limit, size.Limit)
		require.Greater(t, size.Size, limit)
		p.send(notes(4, 40)[0])
		var sent tally
		for _, f := range notes(0, 10, 20) {
			sent.sent(f.Tx, len(f.Payload))
		}
		sent.sent(4, 40)
		assert.Equal(t, sent, p.report())
		p.end()
	}
}

// batchBlocked is a SendBatch with a name that stacks show.
//
//go:noinline
func batchBlocked(ctx context.Context, l drivers.Link, frames []drivers.Frame) (int, error) {
	return l.SendBatch(ctx, frames)
}

// testBatchStalled: if the receiver does not read, SendBatch blocks until its context
// ends. What it says was sent arrives, and no more.
func testBatchStalled(t *testing.T, s *suite, size int) {
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := uint64(0)
	sizes := make([]int, 16)
	for i := range sizes {
		sizes[i] = size
	}
	for full := false; !full; {
		frames := notes(tx, sizes...)
		ctx, cancel := context.WithCancel(context.Background())
		type result struct {
			n   int
			err error
		}
		results := make(chan result, 1)
		go func() {
			n, err := batchBlocked(ctx, p.link, frames)
			results <- result{n, err}
		}()
		await(func() bool { return len(results) > 0 || parked("batchBlocked", 1) })
		cancel()
		r := <-results
		if r.err != nil {
			require.ErrorIs(t, r.err, context.Canceled)
			require.Less(t, r.n, len(frames))
			full = true
		} else {
			require.Equal(t, len(frames), r.n)
		}
		for i := range r.n {
			sent.sent(tx+uint64(i), size)
		}
		tx += uint64(len(frames))
		if sent.Bytes > held {
			t.Fatalf("the link took %d bytes that nobody reads", sent.Bytes)
		}
	}
	p.tell("go")
	for range 100 {
		p.send(notes(tx, 100)[0])
		sent.sent(tx, 100)
		tx++
	}
	assert.Equal(t, sent, p.report(), "the first n frames arrive, and no others")
	p.end()
}

// blockedBatches returns a worker that does not read, and the errors of batches that
// block for it.
func (s *suite) blockedBatches(t *testing.T) (*peer, chan error) {
	t.Helper()
	const n = 3
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	var sent tally
	tx := p.fill(&sent, 0, 1000)
	result := make(chan error, n)
	for i := range uint64(n) {
		go func() {
			frames := notes(tx+3*i, 1000, 700<<10, 1000)
			m, err := batchBlocked(context.Background(), p.link, frames)
			if err == nil || m > len(frames) {
				err = errors.New("batch was sent")
			}
			result <- err
		}()
	}
	awaitParked("batchBlocked", n)
	return p, result
}

// testEndBlockedBatch: ending the link ends a SendBatch that blocks.
func testEndBlockedBatch(t *testing.T, s *suite, end func(drivers.Link)) {
	p, result := s.blockedBatches(t)
	end(p.link)
	for range cap(result) {
		require.ErrorIs(t, <-result, ipc.ErrDisconnected)
	}
	n, err := p.link.SendBatch(context.Background(), notes(1, 1))
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.Zero(t, n)
	p.tell("go")
	p.end()
}

// testKillBlockedBatch: so does the death of the peer.
func testKillBlockedBatch(t *testing.T, s *suite) {
	p, result := s.blockedBatches(t)
	kill(t, p)
	for range cap(result) {
		require.ErrorIs(t, <-result, ipc.ErrPeerGone)
	}
	p.dead()
}

// testClaim: payloads that are built in a link's own memory are like others, and a
// claim keeps all other senders waiting until it ends.
func testClaim(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "sink", Hold: true})
	p.expect("ready")
	c, ok := p.link.(drivers.Claimer)
	if !ok {
		p.tell("go")
		p.report()
		p.end()
		t.Skip("this driver has no memory to claim")
	}
	ctx := context.Background()
	var sent tally
	claim := func(tx uint64, size int) []byte {
		t.Helper()
		buf, err := c.Claim(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Method: 7}, size)
		require.NoError(t, err)
		require.Len(t, buf, size)
		return buf
	}
	tx := uint64(0)
	for _, size := range []int{0, 1, 8, 100, 5000} {
		pattern(tx, claim(tx, size+50)[:size])
		c.Commit(size) // less than was claimed
		sent.sent(tx, size)
		claim(tx, 1000)
		c.Abort()
		tx++
	}
	var size *ipc.SizeError
	_, err := c.Claim(ctx, &drivers.Frame{Kind: drivers.KindNotify}, 2*maxMessage)
	require.ErrorAs(t, err, &size)
	_, err = c.Claim(ctx, &drivers.Frame{Kind: drivers.KindNotify}, size.Limit+1)
	require.ErrorAs(t, err, &size)

	buf := claim(tx, 100)
	behind := make(chan error, 1)
	go func() { behind <- sendBlocked(ctx, p.link, tx+1, 10) }()
	awaitParked("sendBlocked", 1)
	pattern(tx, buf)
	c.Commit(100)
	require.NoError(t, <-behind)
	sent.sent(tx, 100)
	sent.sent(tx+1, 10)

	next := p.fill(&sent, tx+2, 3000)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = c.Claim(ended, &drivers.Frame{Kind: drivers.KindNotify}, 3000)
	require.ErrorIs(t, err, context.Canceled)
	p.tell("go")
	p.send(notes(next, 20)[0])
	sent.sent(next, 20)
	assert.Equal(t, sent, p.report())
	p.end()
	_, err = c.Claim(ctx, &drivers.Frame{Kind: drivers.KindNotify}, 1)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
}
