package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var frameCases = []testCase{
	{"OrderToWorker", testOrderToWorker},
	{"OrderToHost", testOrderToHost},
	{"Sizes", testSizes},
	{"Large", testLarge},
	{"Header", testHeader},
	{"Metadata", testMetadata},
	{"Streams", testStreams},
	{"PayloadStays", testPayloadStays},
	{"Concurrent", testConcurrent},
	{"ConcurrentLarge", testConcurrentLarge},
	{"HostLimit", testHostLimit},
	{"WorkerLimit", testWorkerLimit},
}

// testOrderToWorker: many small frames arrive complete, unchanged and in order.
func testOrderToWorker(t *testing.T, s *suite) {
	const n = 100_000
	p := s.start(t, script{Do: "sink"})
	sizes, buf := newSizes(256, true), make([]byte, 256)
	var sent tally
	for i := range uint64(n) {
		b := buf[:sizes.next()]
		pattern(i, b)
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: b})
		sent.sent(i, len(b))
		clear(b) // Send has left the payload when it returns
	}
	assert.Equal(t, sent, p.report())
	p.end()
}

// testOrderToHost is the same in the other direction.
func testOrderToHost(t *testing.T, s *suite) {
	const n = 100_000
	p := s.start(t, script{Do: "source", N: n, Size: 256, Random: true})
	sizes := newSizes(256, true)
	for i := range uint64(n) {
		f := p.receive()
		if size := sizes.next(); f.Tx != i || len(f.Payload) != size {
			t.Fatalf("got frame %d of %d bytes, want %d of %d", f.Tx, len(f.Payload), i, size)
		}
		if err := checkPattern(i, f.Payload); err != nil {
			t.Fatal(err)
		}
	}
	p.expect("sent")
	p.end()
}

// testSizes: sizes around every boundary that a driver may have cross in both
// directions.
func testSizes(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	tx := uint64(1)
	for _, size := range []int{0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65} {
		p.echo(tx, size)
		tx++
	}
	for _, around := range []int{4 << 10, 8 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20} {
		// The framing of a link may put its own boundary a little below.
		for _, d := range []int{-32, -17, -16, -9, -8, -1, 0, 1} {
			if around > 1<<20 && d < -1 {
				continue
			}
			p.echo(tx, around+d)
			tx++
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		p.echo(tx, random.IntN(20<<10))
		tx++
	}
	p.end()
}

// testLarge: a frame much larger than any buffer crosses in both directions,
// and small ones after it.
func testLarge(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	p.echo(1, 64<<20)
	p.echo(2, 1)
	p.end()
}

// testHeader: everything in a frame survives, whatever the kind.
func testHeader(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	for _, kind := range []drivers.Kind{drivers.KindRequest, drivers.KindResponse, drivers.KindError, drivers.KindNotify, drivers.KindCancel, drivers.KindOpen, drivers.KindItems, drivers.KindWindow, drivers.KindEnd, drivers.KindGoodbye, 15} {
		for _, tx := range []uint64{0, 1, 1 << 32, math.MaxUint64} {
			for _, method := range []uint64{0, drivers.ItemWhole, drivers.ItemPiece, math.MaxUint64} {
				for _, remaining := range []time.Duration{0, 1, time.Minute, math.MaxInt64} {
					for _, size := range []int{0, 10} {
						want := drivers.Frame{Kind: kind, Tx: tx, Method: method, Remaining: remaining, Payload: payload(tx, size)}
						p.send(want)
						got := p.receive()
						if got.Kind != kind || got.Tx != tx || got.Method != method || got.Remaining != remaining || string(got.Payload) != string(want.Payload) {
							t.Fatalf("got %+v, want %+v", got, want)
						}
					}
				}
			}
		}
	}
	p.end()
}

// testStreams: the frames of streams arrive as they were sent, in their order, whatever their
// items are: lists, whole ones and pieces, up to the largest.
func testStreams(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	for i, n := range []int{0, 1, 40, 2000, drivers.MaxGathered - drivers.ItemHeader, drivers.MaxPiece} {
		tx := uint64(2 * i)
		item := payload(tx, n)
		list := drivers.AppendItem(drivers.AppendItem(nil, item[:min(n, 1000)]), nil)
		frames := []drivers.Frame{
			{Kind: drivers.KindOpen, Tx: tx, Method: math.MaxUint64, Remaining: time.Minute, Payload: append(drivers.AppendOpening(nil, &drivers.Opening{Window: drivers.InitialStreamWindow, Sent: n > 0}), list...)},
			{Kind: drivers.KindItems, Tx: tx, Payload: list},
			{Kind: drivers.KindItems, Tx: tx, Method: drivers.ItemWhole, Payload: item},
			{Kind: drivers.KindItems, Tx: tx, Method: drivers.ItemPiece, Payload: item},
			{Kind: drivers.KindItems, Tx: tx, Method: drivers.ItemWhole, Payload: nil},
			{Kind: drivers.KindWindow, Tx: tx, Payload: list[:8]},
			{Kind: drivers.KindItems, Tx: tx, Payload: list},
			{Kind: drivers.KindEnd, Tx: tx, Payload: []byte{drivers.EndSent}},
			{Kind: drivers.KindEnd, Tx: tx, Payload: append([]byte{drivers.EndFailed}, item...)},
		}
		for range 50 {
			for _, want := range frames {
				p.send(want)
			}
			for j, want := range frames {
				got := p.receive()
				if got.Kind != want.Kind || got.Tx != tx || got.Method != want.Method || got.Remaining != want.Remaining || string(got.Payload) != string(want.Payload) {
					t.Fatalf("frame %d, with an item of %d bytes: got %v with tx %d, method %d and %d bytes, want %v with tx %d, method %d and %d bytes",
						j, n, got.Kind, got.Tx, got.Method, len(got.Payload), want.Kind, tx, want.Method, len(want.Payload))
				}
			}
		}
	}
	p.end()
}

// testPayloadStays: a payload is valid until the next Next whatever arrives
// meanwhile, and for ever if it is Owned.
func testPayloadStays(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	var owned []drivers.Frame
	for round := range 20 {
		tx := uint64(round)
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 100<<round%(300<<10))})
		first := p.receive()
		for i := range uint64(10) {
			p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: 100 + i, Payload: payload(100+i, 100<<i)})
		}
		await(p.link.Ready)
		require.NoError(t, checkPattern(tx, first.Payload), "the payload changed before Next was called")
		if first.Owned {
			owned = append(owned, first)
		}
		for i := range uint64(10) {
			f := p.receive()
			require.Equal(t, 100+i, f.Tx)
			require.NoError(t, checkPattern(f.Tx, f.Payload))
			if f.Owned {
				owned = append(owned, f)
			}
		}
	}
	for _, f := range owned {
		require.NoError(t, checkPattern(f.Tx, f.Payload), "an owned payload changed")
	}
	p.end()
}

// callTable is the least that turns a link into calls: whoever waits for an
// answer, by tx, and one goroutine that reads.
type callTable struct {
	link drivers.Link
	mu   sync.Mutex
	wait map[uint64]chan error
	dead chan struct{} // closed when the reader has ended with err
	err  error
}

func newCallTable(l drivers.Link) *callTable {
	c := &callTable{link: l, wait: make(map[uint64]chan error), dead: make(chan struct{})}
	go func() {
		defer close(c.dead)
		c.err = receiveAll(l, c.deliver)
	}()
	return c
}

func (c *callTable) deliver(f drivers.Frame) {
	c.mu.Lock()
	answer := c.wait[f.Tx]
	delete(c.wait, f.Tx)
	c.mu.Unlock()
	if answer == nil {
		panic(fmt.Sprintf("answer to %d, which nobody waits for", f.Tx))
	}
	err := checkPattern(f.Tx, f.Payload)
	if f.Kind != drivers.KindResponse {
		err = fmt.Errorf("answer %d is a %v", f.Tx, f.Kind)
	}
	answer <- err
}

func (c *callTable) call(tx uint64, size int) error {
	answer := make(chan error, 1)
	c.mu.Lock()
	c.wait[tx] = answer
	c.mu.Unlock()
	if err := c.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindRequest, Tx: tx, Method: 1, Payload: payload(tx, size)}); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-c.dead:
		return c.err
	}
}

// callMany makes calls calls from each of n goroutines over p's link, and ends p.
func callMany(t *testing.T, p *peer, n, calls, size int) {
	t.Helper()
	c := newCallTable(p.link)
	errs := make(chan error, n)
	for g := range n {
		go func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			var err error
			for i := 0; i < calls && err == nil; i++ {
				err = c.call(uint64(g*calls+i), random.IntN(size))
			}
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	p.link.Shutdown()
	<-c.dead
	assert.ErrorIs(t, c.err, ipc.ErrDisconnected)
	p.end()
}

// testConcurrent: a link may be sent to from many goroutines at once, on both
// sides.
func testConcurrent(t *testing.T, s *suite) {
	callMany(t, s.start(t, script{Do: "echo"}), 64, 200, 300)
	callMany(t, s.start(t, script{Do: "echo", Goroutines: 16}), 1000, 10, 300)
}

// testConcurrentLarge: the same while frames are larger than what a link can
// hold, so that both sides block for space at the same time.
func testConcurrentLarge(t *testing.T, s *suite) {
	callMany(t, s.start(t, script{Do: "echo"}), 16, 6, 3<<20)
	callMany(t, s.start(t, script{Do: "echo", Goroutines: 16}), 16, 6, 3<<20)
}

// requireSizeError checks that the link refuses a payload of size bytes.
func (p *peer) requireSizeError(size, limit int) {
	p.t.Helper()
	err := p.link.Send(context.Background(), &drivers.Frame{Kind: drivers.KindNotify, Tx: 1, Payload: make([]byte, size)})
	var e *ipc.SizeError
	require.True(p.t, errors.As(err, &e), "send %d bytes: got error %v, want a SizeError", size, err)
	assert.Equal(p.t, limit, e.Limit)
	assert.GreaterOrEqual(p.t, e.Size, size)
	assert.Greater(p.t, e.Size, limit)
}

// testHostLimit: the limit is the least that either side said, it counts the
// header, and a frame over it does no harm.
func testHostLimit(t *testing.T, s *suite) {
	const limit = 64 << 10
	for name, p := range map[string]*peer{
		"the worker's": s.start(t, script{Do: "mirror", MaxMessage: limit}),
		"the host's":   s.start(t, script{Do: "mirror"}, withMaxMessage(limit)),
	} {
		t.Log("limit is", name)
		p.requireSizeError(limit+1, limit)
		p.requireSizeError(limit, limit) // no room for the header
		p.requireSizeError(10*limit, limit)
		p.echo(2, limit-drivers.MaxHeader)
		p.requireSizeError(limit+1, limit)
		p.echo(3, 10)
		p.end()
	}
}

// testWorkerLimit: the same where the worker sends.
func testWorkerLimit(t *testing.T, s *suite) {
	const limit = 64 << 10
	for _, p := range []*peer{
		s.start(t, script{Do: "oversize", Size: limit + 1, MaxMessage: limit}),
		s.start(t, script{Do: "oversize", Size: limit + 1}, withMaxMessage(limit)),
	} {
		p.expect(strconv.Itoa(limit))
		p.echo(2, limit-drivers.MaxHeader)
		p.end()
	}
}
