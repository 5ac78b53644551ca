package pipeline

import (
	"context"
	"hash/maphash"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/pool"
)

// perRecord is what a record counts for in a window beside its size.
const perRecord = 64

// firstTarget is how many records a batch has at most before it is known how long they take; then
// batches grow to twice as many at a time.
const firstTarget = 64

// keyLanes is among how many lanes keys are shared.
const keyLanes = 64

// batch is records that travel together.
type batch struct {
	lane  *lane
	seq   uint64
	ids   []ID
	req   []byte // frames
	res   []byte // frames of the answer: all of them, or
	parts []part // what came of each record
	held  int64  // what the batch counts for in the window
	begun time.Time

	// While records gather:
	granted int64   // what it may count for without asking; more than held counts, too, until it is sealed
	most    int     // records
	ratio   float64 // core.ratio when that was found
	mem     []byte  // memory for answers
}

// part is what came of a record.
type part struct {
	body    []byte
	dropped bool // it is done with: skipped, or a dead letter
}

// lane is an order of records: all of a stage, or those of some keys.
type lane struct {
	caller ipc.Caller
	// open is for cur, and what is in it. So a record that finds a batch with room costs no more than
	// that lock, for which nobody else waits often. core.mu comes before it.
	open     sync.Mutex
	cur      *batch // gathers records; nil if there is none
	full     []*batch
	inFlight int
	most     int // batches in flight at a time
}

// core is a stage, but for the types of its records.
//
// One goroutine puts records into batches. Each batch has a goroutine while it is in flight, and one more
// goroutine passes on what has come of them.
type core struct {
	options
	run    *run
	caller ipc.Caller
	pool   interface{ Stats() pool.Stats } // nil if the caller is none
	seed   maphash.Seed

	mu      sync.Mutex
	room    sync.Cond // for who puts records in
	ready   sync.Cond // for who passes them on
	lanes   []*lane
	turn    int // which lane is asked first
	execute func(*batch)

	workers  int // of the caller, as far as is known
	limit    int // batches in flight
	asked    time.Time
	asker    *time.Timer
	asking   bool // asker is set
	inFlight int
	held     int64
	ratio    float64 // of the bytes of an answer to those of its request
	each     float64 // how long a record takes, in ns
	target   int     // records of a batch
	armed    bool    // the timer is
	timer    *time.Timer

	started   uint64 // seq of the next batch that is started
	emitted   uint64 // seq of the next batch that is passed on, if the stage is ordered
	done      []*batch
	early     map[uint64]*batch // done, and not the next one
	ended     bool              // nothing more is put in
	over      bool              // the run is
	free      []*batch          // to be used again
	freeBytes int64             // of their memory, at most half of a window
	suspects  chan struct{}     // has a token while a suspect record runs
	counters  counters
	latencies *hdrhistogram.Histogram
	sizes     *hdrhistogram.Histogram
}

func (c *core) init(r *run, o options, caller ipc.Caller) {
	c.options, c.run, c.caller = o, r, caller
	c.room.L, c.ready.L = &c.mu, &c.mu
	c.pool, _ = caller.(interface{ Stats() pool.Stats })
	c.seed = maphash.MakeSeed()
	c.lanes = []*lane{{caller: caller, most: 1 << 30}}
	if o.key != nil {
		c.lanes = make([]*lane, keyLanes)
		keyed, _ := caller.(interface{ For(key string) ipc.Caller })
		for i := range c.lanes {
			c.lanes[i] = &lane{caller: caller, most: 1}
			if keyed != nil {
				c.lanes[i].caller = keyed.For(strconv.Itoa(i))
			}
		}
	}
	c.ratio, c.target, c.early = 1, min(firstTarget, o.batch.Records), make(map[uint64]*batch)
	c.suspects = make(chan struct{}, 1)
	c.latencies = hdrhistogram.New(1, int64(time.Hour), 2)
	c.sizes = hdrhistogram.New(1, 1<<24, 2)
	c.workers = 1
	c.askPool()
}

// askEvery is how often a stage asks its pool how many workers there are.
const askEvery = 250 * time.Millisecond

// askLater asks the pool though no batch comes to its end, for the pool may have grown for those that
// wait. c.mu is held.
func (c *core) askLater() {
	if c.asking || c.pool == nil || c.over {
		return
	}
	c.asking = true
	if c.asker != nil {
		c.asker.Reset(askEvery)
		return
	}
	c.asker = time.AfterFunc(askEvery, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asking = false
		c.askPool()
		c.launch()
	})
}

// askPool learns how many workers there are. c.mu is held, or nobody else has c yet.
func (c *core) askPool() {
	now := time.Now()
	if now.Sub(c.asked) < askEvery {
		return
	}
	c.asked = now
	if c.pool != nil {
		c.workers = max(c.pool.Stats().Size, 1)
	}
	if c.limit = c.options.inFlight; c.limit == 0 {
		c.limit = 2 * runtime.GOMAXPROCS(0) * c.workers
	}
}

// laneOf returns the lane of a key.
func (c *core) laneOf(key string) *lane {
	return c.lanes[maphash.String(c.seed, key)%uint64(len(c.lanes))]
}

func (c *core) newBatch(l *lane) *batch {
	var b *batch
	if n := len(c.free); n > 0 {
		b, c.free = c.free[n-1], c.free[:n-1]
		c.freeBytes -= int64(cap(b.req) + cap(b.mem))
	} else {
		b = new(batch)
	}
	b.lane, b.begun = l, time.Now()
	return b
}

// arm makes the timer look for batches that have waited long enough. c.mu is held.
func (c *core) arm(after time.Duration) {
	c.armed = true
	if c.timer == nil {
		c.timer = time.AfterFunc(after, c.ring)
	} else {
		c.timer.Reset(after)
	}
}

// ring sends batches that have waited long enough.
func (c *core) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	now := time.Now()
	next := time.Duration(-1)
	for _, l := range c.lanes {
		l.open.Lock()
		if l.cur != nil {
			if left := c.batch.Wait - now.Sub(l.cur.begun); left <= 0 {
				c.sealOpen(l)
			} else if next < 0 || left < next {
				next = left
			}
		}
		l.open.Unlock()
	}
	c.launch()
	if next > 0 && !c.over {
		c.arm(next)
	}
}

// seal ends the batch that gathers in a lane, if there is one. c.mu is held.
func (c *core) seal(l *lane) {
	l.open.Lock()
	c.sealOpen(l)
	l.open.Unlock()
}

// sealOpen is seal when l.open is held, too.
func (c *core) sealOpen(l *lane) {
	if l.cur != nil {
		c.grant(l.cur, 0)
		c.counters.queued += len(l.cur.ids)
		l.full = append(l.full, l.cur)
		l.cur = nil
	}
}

// launch starts what may be started. c.mu is held.
func (c *core) launch() {
	for tried := 0; tried < len(c.lanes) && c.inFlight < c.limit && !c.over; tried++ {
		l := c.lanes[c.turn]
		if c.turn++; c.turn == len(c.lanes) {
			c.turn = 0
		}
		for l.inFlight < l.most && c.inFlight < c.limit {
			if len(l.full) == 0 {
				if c.inFlight >= c.workers && !c.ended {
					break
				}
				if c.seal(l); len(l.full) == 0 {
					break
				}
			}
			b := l.full[0]
			if l.full = l.full[1:]; len(l.full) == 0 {
				l.full = nil
			}
			c.begin(b)
		}
	}
	if c.inFlight >= c.limit {
		c.askLater()
	}
}

// begin starts a batch. c.mu is held.
func (c *core) begin(b *batch) {
	if c.inFlight == 0 {
		c.counters.busySince = time.Now()
	}
	b.lane.inFlight++
	c.inFlight++
	b.seq = c.started
	c.started++
	c.run.work(func() { c.execute(b) })
}

// end says that nothing more is put in.
func (c *core) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lanes {
		c.seal(l)
	}
	c.ended = true
	c.launch()
	c.ready.Signal()
}

// wake wakes all who wait, as the run is over.
func (c *core) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, t := range []*time.Timer{c.timer, c.asker} {
		if t != nil {
			t.Stop()
		}
	}
	c.room.Broadcast()
	c.ready.Broadcast()
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
