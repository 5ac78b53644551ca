//go:build unix

package pipeline

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// books are what a stage should hold, by what a test has put into it and got out of it. Where two of them
// bound a figure, the first is noted before the stage changes it, and the second afterwards.
type books struct {
	alike                bool  // all answers are as large as their requests
	largest              int64 // what the largest record may count for by itself, if one exceeds the window
	putting, put         atomic.Int64
	finishing, finished  atomic.Int64
	live                 atomic.Int64 // bytes that are there for certain, as they count
	excess               atomic.Int64 // bytes of answers beyond what was expected of them
	excesses             sync.Map     // *batch: its share
	bytesIn, out, bytes  atomic.Int64
	seen                 sync.Map     // positions of records in batches
	garbled              atomic.Int64 // that were not as they should be
	mostHeld, mostExcess int64        // which check has seen
}

// check compares a stage with the books, at an instant.
func (k *books) check(t *testing.T, c *core) {
	c.mu.Lock()
	defer c.mu.Unlock()
	queued := int64(c.counters.queued)
	for _, l := range c.lanes {
		l.open.Lock()
		defer l.open.Unlock()
		if l.inFlight < 0 || l.inFlight > l.most {
			t.Errorf("%d batches of a lane are in flight, of at most %d", l.inFlight, l.most)
		}
		if b := l.cur; b != nil {
			queued += int64(len(b.ids))
			if actual := int64(len(b.req) + len(b.ids)*perRecord); actual > b.held || b.held > b.granted {
				t.Errorf("a batch has %d bytes, counts for %d, and was granted %d", actual, b.held, b.granted)
			}
		}
	}
	if least, most := k.put.Load()-k.finishing.Load(), k.putting.Load()-k.finished.Load(); queued < least || queued > most {
		t.Errorf("%d records are queued; there are %d to %d", queued, least, most)
	}
	if c.inFlight < 0 || c.inFlight > c.limit {
		t.Errorf("%d batches are in flight, of at most %d", c.inFlight, c.limit)
	}
	if live := k.live.Load(); c.held < live {
		t.Errorf("the stage has %d bytes, and counts %d", live, c.held)
	}
	if excess := k.excess.Load(); c.held-excess > max(c.window, k.largest) {
		t.Errorf("the stage holds %d bytes, of which answers exceed what was expected by %d; the window is %d", c.held, excess, c.window)
	}
	if c.freeBytes < 0 || c.freeBytes > c.window/2 {
		t.Errorf("buffers to be used again have %d bytes, and the window %d", c.freeBytes, c.window)
	}
	k.mostHeld, k.mostExcess = max(k.mostHeld, c.held), max(k.mostExcess, k.excess.Load())
}

// finish answers a batch: with answers of some sizes, or for each record by itself, some of which are left out.
func (k *books) finish(c *core, b *batch, random *rand.Rand) {
	n, answered, records := len(b.ids), 0, 0
	times := []int{0, 1, 1, 1, 9}[random.IntN(5)] // so large are answers, beside their requests
	if k.alike {
		b.res = append(b.res, b.req...)
		answered, records = len(b.res), n
	} else if random.IntN(3) == 0 {
		b.parts = make([]part, n)
		for i := range b.parts {
			if b.parts[i].dropped = random.IntN(4) == 0; !b.parts[i].dropped {
				b.parts[i].body = make([]byte, times*(len(b.req)/n))
				answered += frameHeader + len(b.parts[i].body)
				records++
			}
		}
	} else {
		for range n {
			b.res = appendFrame(b.res, make([]byte, times*(len(b.req)/n)))
		}
		answered, records = len(b.res), n
	}
	k.bytesIn.Add(int64(len(b.req) - n*frameHeader))
	k.out.Add(int64(records))
	k.bytes.Add(int64(answered - records*frameHeader))
	held := int64(len(b.req) + answered + n*perRecord)
	k.look(b)
	excess := max(held-b.held, 0)
	k.excess.Add(excess)
	k.excesses.Store(b, excess)
	k.finishing.Add(int64(n))
	c.finish(b, time.Duration(n)*time.Microsecond)
	k.finished.Add(int64(n))
	k.live.Add(int64(answered))
}

// look notes the records of a batch, which have to be what was put in.
func (k *books) look(b *batch) {
	rest := b.req
	for _, id := range b.ids {
		f, after, ok := nextFrame(rest)
		rest = after
		if !ok || len(f.body) > 0 && (f.body[0] != byte(id.Pos) || f.body[len(f.body)-1] != byte(id.Pos)) {
			k.garbled.Add(1)
		}
		if _, twice := k.seen.LoadOrStore(id.Pos, true); twice {
			k.garbled.Add(1)
		}
	}
	if len(rest) > 0 {
		k.garbled.Add(1)
	}
}

// A stage never holds more than its window, but for a single record that is larger and answers that are larger than was to
// be expected; it never counts less than it holds; and in the end it counts nothing. That is so in every order in which records
// come, batches end, and their results are passed on.
func TestWindowIsKept(t *testing.T) {
	for name, opts := range map[string][]Option{
		"as they come":  nil,
		"ordered":       {Ordered()},
		"by key":        {By(func([]byte) string { return "" })},
		"one in flight": {InFlight(1)},
		"large batches": {BatchBy(Batches{Records: 1 << 20, Bytes: 1 << 20, Work: time.Hour, Wait: 50 * time.Microsecond})},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(6) {
				keepBooks(t, seed, &books{alike: seed%2 == 0}, append([]Option{Window(16 << 10), BatchBy(Batches{Records: 32, Bytes: 2 << 10, Wait: 100 * time.Microsecond})}, opts...))
			}
		})
	}
}

func keepBooks(t *testing.T, seed uint64, k *books, opts []Option) {
	const records = 4000
	random := rand.New(rand.NewPCG(seed, 0))
	r := &run{track: newTracker(0, 1<<20)}
	r.ctx, r.stop = context.WithCancel(t.Context())
	defer r.stop()
	var c core
	c.init(r, newOptions("test", opts), nil)
	c.workers = 1 + int(seed)/2
	large := 200
	if !k.alike && seed%4 == 1 {
		large = 2 * int(c.window)
		k.largest = perRecord + 11*int64(large+frameHeader) // answers are nine times as large, and have a header
	}
	var seq atomic.Uint64
	c.execute = func(b *batch) {
		random := rand.New(rand.NewPCG(seed, 1+seq.Add(1)))
		for range random.IntN(100) {
			runtime.Gosched()
		}
		k.finish(&c, b, random)
	}
	guard := time.AfterFunc(time.Minute, func() {
		t.Error("it hangs, as nothing makes room")
		r.stop()
		c.wake()
	})
	defer guard.Stop()
	var rest, watching sync.WaitGroup
	rest.Go(func() {
		random := rand.New(rand.NewPCG(seed, 1<<40))
		for b := c.take(); b != nil; b = c.take() {
			live := len(b.req) + len(b.ids)*perRecord + len(b.res)
			for _, p := range b.parts {
				if !p.dropped {
					live += frameHeader + len(p.body)
				}
			}
			for range random.IntN(50) {
				runtime.Gosched()
			}
			k.live.Add(-int64(live))
			excess, _ := k.excesses.LoadAndDelete(b)
			c.release(b)
			k.excess.Add(-excess.(int64))
		}
	})
	over := make(chan struct{})
	watching.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
				k.check(t, &c)
				runtime.Gosched()
			}
		}
	})
	sent := int64(0)
	for i := 0; i < records; {
		group := 1 // records that come at a time
		if c.key == nil && random.IntN(4) == 0 {
			group = min(1+random.IntN(80), records-i)
		}
		var ids []ID
		var frames []byte
		for range group {
			n := random.IntN(200)
			switch random.IntN(500) {
			case 0:
				n = large
			case 1:
				n = 0
			}
			ids, frames = append(ids, ID{Pos: uint64(i)}), appendFrame(frames, bytes.Repeat([]byte{byte(i)}, n))
			sent += int64(n)
			i++
		}
		k.putting.Add(int64(group))
		if group > 1 {
			require.NoError(t, c.putFrames(c.lanes[0], ids, frames))
		} else {
			l := c.lanes[0]
			if c.key != nil {
				l = c.laneOf(strconv.Itoa(random.IntN(100)))
			}
			require.NoError(t, c.put(l, ids[0], frames[frameHeader:]))
		}
		k.put.Add(int64(group))
		k.live.Add(int64(group*perRecord + len(frames)))
	}
	c.end()
	rest.Wait()
	r.workers.Wait()
	close(over)
	watching.Wait()
	k.check(t, &c)
	require.Zero(t, k.garbled.Load())
	require.Zero(t, k.excess.Load())
	if k.alike {
		require.Zero(t, k.mostExcess)
		require.LessOrEqual(t, k.mostHeld, c.window)
	}
	s := c.stats()
	require.Zero(t, s.Held)
	require.Zero(t, s.Queued)
	require.Zero(t, s.InFlight)
	require.EqualValues(t, records, s.In)
	require.Equal(t, sent, int64(s.BytesIn))
	require.Equal(t, k.bytesIn.Load(), int64(s.BytesIn))
	require.EqualValues(t, k.out.Load(), s.Out)
	require.EqualValues(t, k.bytes.Load(), s.BytesOut)
	require.Empty(t, c.early)
	require.Empty(t, c.done)
	size := int64(0)
	for _, b := range c.free {
		size += int64(cap(b.req) + cap(b.mem))
	}
	require.Equal(t, size, c.freeBytes)
	require.Positive(t, s.Full, "the window was never full")
	require.Greater(t, k.mostHeld, c.window/2)
}
