package netconn

import (
	"context"
	"io"
	"net"
	"slices"
)

// lingering is how many bytes may come after Close until the stream is given up. Those were sent
// by a peer that has not seen yet that the connection is closed, or does not want to.
const lingering = 64 << 10

// CloseWrite says that nothing more will be written: the other side reads io.EOF after all that was.
// Later Writes, and those that wait, fail with [syscall.EPIPE]. It does not wait. Reading goes on.
func (c *Conn) CloseWrite() error {
	if c.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	c.closeWriting(errShut)
	return nil
}

// closeWriting ends the direction because of err. The end is sent now, or when the link has room.
func (c *Conn) closeWriting(err error) {
	c.writing.deadline.close(err)
	c.writing.Lock() // who has it leaves
	defer c.writing.Unlock()
	if c.writing.over != nil {
		return
	}
	c.writing.over = err
	if c.out.CloseSend(past) != nil {
		c.using.Go(func() { _ = c.out.CloseSend(context.Background()) }) // or the stream has ended
	}
}

// CloseRead says that nothing more will be read: later Reads, and those that wait, return io.EOF. What
// comes is dropped, so that the other side does not wait. Writing goes on.
func (c *Conn) CloseRead() error {
	if c.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	c.closeReading(io.EOF)
	return nil
}

// closeReading ends the direction because of err, and drops what comes.
func (c *Conn) closeReading(err error) {
	c.reading.deadline.close(err)
	go func() {
		c.reading.Lock() // who has it leaves, but for WriteTo in the middle of a Write
		c.rest = nil
		over := c.reading.over != nil
		if !over {
			c.reading.over = err
			c.using.Add(1) // leave cannot be waiting yet
		}
		c.reading.Unlock()
		if !over {
			c.drain()
			c.using.Done()
		}
	}()
}

// drain drops what comes, until the other side sends no more, or sends though the connection is
// closed. The stream of a connection that was dialled lives until then: if it were given up at
// once the other side would lose what it has not read.
func (c *Conn) drain() {
	ctx := context.Background()
	if c.giveUp == nil {
		ctx = c.life
	}
	for dropped := 0; ; {
		item, err := c.in.Receive(ctx)
		if err != nil {
			return
		}
		if c.closed.Load() {
			dropped += len(item)
		}
		if dropped > lingering && c.giveUp != nil {
			c.giveUp()
			return
		}
	}
}

// Close ends both directions. Reads and Writes that wait fail with [net.ErrClosed], and so do later
// ones. The other side reads what was written, and then io.EOF; a Write there fails soon. What has come
// and was not read is dropped. Close does not wait. A second Close returns an error.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return c.opError("close", net.ErrClosed)
	}
	// First of all, for the other side may answer the end, and nobody reads that.
	c.reading.deadline.close(net.ErrClosed)
	c.closeWriting(net.ErrClosed)
	if c.giveUp != nil {
		c.closeReading(net.ErrClosed)
	}
	c.finish(nil)
	return nil
}

// abort ends the connection at once: what the other side has not read is lost. err is for both.
func (c *Conn) abort(err error) {
	c.reading.deadline.close(err)
	c.writing.deadline.close(err)
	if c.giveUp != nil {
		c.giveUp()
	}
	c.finish(err)
}

// finish ends the life of the connection. On the side that listens its stream ends then, with err.
func (c *Conn) finish(err error) {
	c.ending.Lock()
	defer c.ending.Unlock()
	if !c.life.ended() {
		c.why = err
		c.life.end(net.ErrClosed)
	}
}

// leave is called when the stream is about to end on the side that listens, since its context has
// ended or the connection is closed. In the first case what has come is kept for Read.
func (c *Conn) leave() {
	c.reading.Lock()
	if c.reading.over == nil && c.life.ended() {
		c.reading.over = net.ErrClosed
	}
	rest := slices.Clone(c.rest) // which lies where the stream has it
	for c.reading.over == nil {
		item, err := c.in.Receive(context.Background()) // the stream's own context has ended
		if rest = append(rest, item...); err != nil {
			c.reading.over = err
		}
	}
	c.rest = rest
	over := c.reading.over
	c.reading.Unlock()
	c.writing.Lock()
	if c.writing.over == nil {
		c.writing.over = over
	}
	c.writing.Unlock()
	c.using.Wait()
}
