package pipeline

// cost is what a record of n bytes counts for, if answers have ratio times as many.
func cost(n int, ratio float64) int64 { return int64(perRecord + n + int(ratio*float64(n))) }

// put puts a record into a batch of its lane, and sends what is to be sent. It waits while there is no room.
func (c *core) put(l *lane, id ID, body []byte) error {
	n := len(body) + frameHeader
	l.open.Lock()
	if b := l.cur; b != nil && len(b.ids)+1 < b.most && len(b.req)+n < c.batch.Bytes {
		if cost := cost(n, b.ratio); b.held+cost <= b.granted {
			b.add(id, body, cost)
			l.open.Unlock()
			return nil
		}
	}
	l.open.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admit(l, id, body)
}

// putFrames is put for several records, of which each has a frame. What there is room for goes into a batch in one go.
func (c *core) putFrames(l *lane, ids []ID, frames []byte) error {
	for len(ids) > 0 {
		l.open.Lock()
		if b := l.cur; b != nil {
			n, size := b.fill(ids, frames, c.batch.Bytes)
			ids, frames = ids[n:], frames[size:]
		}
		l.open.Unlock()
		if len(ids) == 0 {
			break
		}
		f, rest, _ := nextFrame(frames)
		c.mu.Lock()
		err := c.admit(l, ids[0], f.body)
		c.mu.Unlock()
		if err != nil {
			return err
		}
		ids, frames = ids[1:], rest
	}
	return nil
}

// fill appends as many of the first records of frames as fit into a batch of less than most bytes. It returns how many, and the bytes
// of their frames.
func (b *batch) fill(ids []ID, frames []byte, most int) (n, size int) {
	for room := min(len(ids), b.most-len(b.ids)-1); n < room; n++ {
		f, _, _ := nextFrame(frames[size:])
		one := frameHeader + len(f.body)
		cost := cost(one, b.ratio)
		if len(b.req)+size+one >= most || b.held+cost > b.granted {
			break
		}
		b.held += cost
		size += one
	}
	b.req = append(b.req, frames[:size]...)
	b.ids = append(b.ids, ids[:n]...)
	return n, size
}

// add appends a record to a batch that gathers.
func (b *batch) add(id ID, body []byte, cost int64) {
	b.req = appendFrame(b.req, body)
	b.ids = append(b.ids, id)
	b.held += cost
}

// admit is put for a record that begins a batch or may fill it, or has to wait. c.mu is held.
func (c *core) admit(l *lane, id ID, body []byte) error {
	n := len(body) + frameHeader
	l.open.Lock()
	if b := l.cur; b != nil {
		c.grant(b, 0)
	}
	l.open.Unlock()
	need := cost(n, c.ratio)
	for c.held > 0 && c.held+need > c.window && c.run.ctx.Err() == nil {
		c.counters.full++
		c.room.Wait()
		need = cost(n, c.ratio)
	}
	if err := c.run.ctx.Err(); err != nil {
		return err
	}
	l.open.Lock()
	if l.cur != nil && len(l.cur.req)+n > c.batch.Bytes {
		c.sealOpen(l)
	}
	if l.cur == nil {
		l.cur = c.newBatch(l)
	}
	b := l.cur
	b.add(id, body, need)
	b.most, b.ratio = c.target, c.ratio
	full := len(b.ids) >= b.most || len(b.req) >= c.batch.Bytes
	more := int64(0)
	if c.key == nil { // there are many lanes otherwise
		more = max(min(int64(b.most-len(b.ids))*need, c.window/8, c.window-c.held-need), 0)
	}
	c.grant(b, more)
	if full {
		c.sealOpen(l)
	}
	l.open.Unlock()
	if full || c.inFlight < c.workers {
		c.launch()
	} else if !c.armed {
		c.arm(c.batch.Wait)
	}
	return nil
}

// grant lets b count for so much more than it does. c.mu and b's lane.open are held.
func (c *core) grant(b *batch, more int64) {
	c.held += b.held + more - b.granted
	b.granted = b.held + more
}
