package pipeline

import "time"

// finish notes that a batch is through. took is how long it was at a worker.
func (c *core) finish(b *batch, took time.Duration) {
	answered := int64(len(b.res))
	for i := range b.parts {
		if !b.parts[i].dropped {
			answered += int64(frameHeader + len(b.parts[i].body))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(b.ids)
	b.lane.inFlight--
	if c.inFlight--; c.inFlight == 0 {
		c.counters.busy += time.Since(c.counters.busySince)
	}
	c.counters.finished(b, answered)
	_ = c.latencies.RecordValue(min(int64(took), int64(time.Hour)))
	_ = c.sizes.RecordValue(int64(n))

	c.ratio = max(float64(answered)/float64(max(len(b.req), 1)), c.ratio*0.9)
	held := int64(len(b.req)) + answered + int64(n)*perRecord
	c.held += held - b.held
	b.held = held
	c.room.Signal()
	each := float64(took) / float64(n)
	if c.each == 0 {
		c.each = each
	}
	c.each += (each - c.each) / 4
	c.target = max(min(int(float64(c.batch.Work)/max(c.each, 1)), 2*max(c.target, firstTarget), c.batch.Records), 1)
	if c.ordered && b.seq != c.emitted {
		c.early[b.seq] = b
	} else {
		c.hand(b)
	}
	c.askPool()
	c.launch()
}

// hand gives b to emit, and what waits for it. c.mu is held.
func (c *core) hand(b *batch) {
	for b != nil {
		c.done = append(c.done, b)
		c.emitted++
		if !c.ordered {
			break
		}
		b = c.early[c.emitted]
		delete(c.early, c.emitted)
	}
	c.ready.Signal()
}

// take returns a batch that is to be passed on. It waits for one, and returns nil when there is none
// any more.
func (c *core) take() *batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.done) == 0 && c.run.ctx.Err() == nil {
		if c.ended && c.inFlight == 0 {
			return nil
		}
		c.ready.Wait()
	}
	if c.run.ctx.Err() != nil {
		return nil
	}
	b := c.done[0]
	if c.done = c.done[1:]; len(c.done) == 0 {
		c.done = nil
	}
	return b
}

// release takes a batch that was passed on.
func (c *core) release(b *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held -= b.held
	c.room.Signal()
	mem := b.res
	if mem == nil {
		mem = b.mem
	}
	if size := int64(cap(b.req) + cap(mem)); c.freeBytes+size <= c.window/2 {
		c.freeBytes += size
		clear(b.ids)
		clear(b.parts)
		*b = batch{ids: b.ids[:0], req: b.req[:0], parts: b.parts[:0], mem: mem[:0]}
		c.free = append(c.free, b)
	}
}
