package ring

import "sync"

// A Lease keeps the memory of one record while the consumer goes on. It is a
// small value: copy it, pass it on, do not compare it. The zero Lease holds
// nothing.
type Lease struct {
	c   *Consumer
	seq uint64
}

// leases is the queue of outstanding leases, oldest first. Records are leased in
// the order of their positions, so the oldest outstanding lease bounds what can
// be freed.
type leases struct {
	mu        sync.Mutex
	queue     []leased // a circular buffer; a power of two long
	head      uint64   // sequence number of the oldest
	tail      uint64   // sequence number of the next
	done      uint64   // what the reader is done with, were there no leases
	published uint64   // the position that the producer knows
}

type leased struct {
	start    uint64
	released bool
}

func (l *leases) at(seq uint64) *leased { return &l.queue[seq&uint64(len(l.queue)-1)] }

// free is the position up to which everything can be overwritten.
func (l *leases) free() uint64 {
	if l.head != l.tail {
		return l.at(l.head).start
	}
	return l.done
}

// Lease makes the record last returned by Next or Message stay valid until
// [Lease.Release], while later records are read. Leases may be released in any
// order, by any goroutine. The producer runs out of space when the oldest lease
// is held for too long, so they are for handing a record to another goroutine,
// not for storing it.
//
// From then on the lease alone keeps the record: do not read it after Release,
// not even before the next Next. If there is no such record (none was returned,
// it was released or leased before, or the message is Owned and needs no lease),
// the Lease holds nothing.
func (c *Consumer) Lease() Lease {
	if c.start == c.next {
		return Lease{}
	}
	l := &c.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.leasing {
		c.leasing = true
		c.quarter = 0 // sends Next to nextSlow, which takes the lock
		l.published = c.published
	}
	if n := uint64(len(l.queue)); l.tail-l.head == n {
		bigger := leases{queue: make([]leased, max(16, 2*n))}
		for seq := l.head; seq != l.tail; seq++ {
			*bigger.at(seq) = *l.at(seq)
		}
		l.queue = bigger.queue
	}
	seq := l.tail
	*l.at(seq) = leased{start: c.start}
	l.tail++
	c.start = c.next // the lease holds it, the reader does not
	l.done = c.start
	return Lease{c, seq}
}

// Release gives the memory back. Its record must not be read any more. Releasing
// again does nothing. Any goroutine may call it.
func (l Lease) Release() {
	if l.c == nil {
		return
	}
	q := &l.c.leases
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.seq-q.head >= q.tail-q.head || q.at(l.seq).released {
		return
	}
	q.at(l.seq).released = true
	for q.head != q.tail && q.at(q.head).released {
		q.head++
	}
	// Publish even if the producer does not wait yet: the reader may be
	// parked and not come back before the producer does wait.
	l.c.publishLeases()
}

// settleLeases is settle while there are leases, or were at last sight.
func (c *Consumer) settleLeases() {
	l := &c.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = c.start
	c.publishLeases()
	c.published = l.published
	c.limit = c.published + c.size - wordSize
	if l.head == l.tail {
		c.leasing = false
		c.quarter = c.size / 4
	}
}

// publishLeases publishes what is free. The caller holds the lock.
func (c *Consumer) publishLeases() {
	if free := c.leases.free(); free != c.leases.published {
		c.leases.published = free
		c.publish(free)
	}
}
