package engine

import "sync"

// cancels are the cancellations that a host has sent and its worker has not answered. A link that ends may have lost them: then
// the worker is told again over the next one. Only sessions whose calls are resumed have some.
type cancels struct {
	mu   sync.Mutex
	sent map[uint64]CallKey // by the tx of the cancellation
	over bool               // the session has ended
}

// note notes a cancellation that is about to be sent. It returns false if the session has ended.
func (c *cancels) note(tx uint64, k CallKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	if c.sent == nil {
		c.sent = make(map[uint64]CallKey)
	}
	if len(c.sent) < MaxForgotten {
		c.sent[tx] = k
	}
	return true
}

// answered takes a cancellation out, and reports whether it was there.
func (c *cancels) answered(tx uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.sent[tx]
	delete(c.sent, tx)
	return ok
}

// end returns those that may be lost, when the session has ended.
func (c *cancels) end() (keys []CallKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.sent {
		keys = append(keys, k)
	}
	c.sent, c.over = nil, true
	return keys
}
