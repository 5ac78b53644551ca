package netconn

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Conn is one end of a connection: bytes in both directions, in order. It is a [net.Conn] whose
// directions can be closed one by one, as those of a [net.TCPConn] can. Its methods are safe for
// concurrent use.
//
// Errors are of type [*net.OpError]. errors.Is finds in them [os.ErrDeadlineExceeded] for a deadline,
// [net.ErrClosed] after Close, [syscall.EPIPE] where the other side has closed the connection
// or CloseWrite was called, [syscall.ECONNRESET] where the other side has given it up, and
// [ipc.ErrPeerGone] where the process of the other side has ended.
type Conn struct {
	local, remote net.Addr

	in     *ipc.Receiver[[]byte]
	out    *ipc.Sender[[]byte]
	giveUp func() // ends the stream at once; nil on the side that listens

	reading, writing direction
	rest             []byte      // of the item that was read last; guarded by reading
	wrote            atomic.Bool // something was written since a Read has returned

	closed atomic.Bool
	using  sync.WaitGroup // goroutines that use the stream for a direction that is closed

	ending sync.Mutex
	life   *moment // until Close; who serves the stream waits for it
	why    error   // what the other side gets in the place of the end; readable when life has ended
}

// direction is what one direction of a connection has.
type direction struct {
	sync.Mutex // held by the goroutine that uses the stream
	deadline   deadline
	over       error // the stream is used no more, because of this; guarded by Mutex
}

// window is how many bytes a connection takes from its beginning that nobody has read, about as many
// as a socket: there are programs that send so much before they read. The link may allow less.
const window = 256 << 10

func newConn(in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte], local, remote net.Addr) *Conn {
	c := &Conn{local: local, remote: remote, in: in, out: out, life: newMoment()}
	c.reading.deadline.init()
	c.writing.deadline.init()
	return c
}

// LocalAddr implements [net.Conn]. The address is an [Addr].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn]. The address is an [Addr].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Read reads what has come, len(b) bytes at most, and waits if there is nothing. It returns
// io.EOF after everything was read, if the other side has closed the connection or its
// direction.
func (c *Conn) Read(b []byte) (n int, err error) {
	m := c.reading.deadline.present.Load()
	if err := m.Err(); err != nil || len(b) == 0 {
		return 0, c.readError(m, err)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	var ctx context.Context = m
	for n < len(b) {
		if len(c.rest) == 0 {
			if n == 0 && c.giveWay() {
				continue
			}
			if err := c.fill(ctx); err != nil {
				if n > 0 {
					break // a later call finds the same
				}
				return 0, c.readError(m, err)
			}
		}
		copied := copy(b[n:], c.rest)
		n, c.rest = n+copied, c.rest[copied:]
		ctx = past // it waits for nothing further
	}
	if c.wrote.Load() {
		c.wrote.Store(false)
	}
	return n, nil
}

// giveWay fills rest with what has come, or lets other goroutines run, before a Read waits. A goroutine
// that has read and not written since has passed on what it has read, as a rule: whoever got it is to
// run on this processor now, and not when the goroutine has polled the link for a while. One that
// has answered by itself goes on at once. The direction is locked.
func (c *Conn) giveWay() bool {
	if c.wrote.Load() {
		return false
	}
	if c.fill(past) == nil {
		return true
	}
	runtime.Gosched()
	return false
}

// fill receives the next item. The direction is locked.
func (c *Conn) fill(ctx context.Context) error {
	if c.reading.over != nil {
		return c.reading.over
	}
	item, err := c.in.Receive(ctx)
	switch {
	case err != nil:
		return err
	case c.closed.Load(): // meanwhile, and item may be an answer to that
		return net.ErrClosed
	case len(item) == 0:
		c.reading.over = errProtocol // Write sends no such thing
		c.abort(errProtocol)
		return errProtocol
	}
	c.rest = item
	return nil
}

// WriteTo implements [io.WriterTo]: it writes what comes to w, from where it has come, until
// the end. The deadline for reading counts for each time that it waits.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	for {
		written, err := c.writeNext(w)
		n += int64(written)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// writeNext writes one item to w.
func (c *Conn) writeNext(w io.Writer) (n int, err error) {
	m := c.reading.deadline.present.Load()
	if err := m.Err(); err != nil {
		return 0, c.readError(m, err)
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(c.rest) == 0 {
		if err := c.fill(m); err != nil {
			return 0, c.readError(m, err)
		}
	}
	size := len(c.rest)
	n, err = w.Write(c.rest)
	if n < 0 || n > size {
		panic("tandem: netconn: a writer says that it has written what it was not given")
	}
	c.rest = c.rest[n:]
	if err == nil && n < size {
		err = io.ErrShortWrite
	}
	return n, err
}

// Write sends all of b, and keeps nothing of it. It waits while the other side has as many bytes
// as it takes that nobody has read there. If it fails, n bytes of b were sent. The bytes of two
// Writes are not mixed.
func (c *Conn) Write(b []byte) (n int, err error) {
	m := c.writing.deadline.present.Load()
	if err := m.Err(); err != nil {
		return 0, c.writeError(m, err)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.writing.over; err != nil {
		return 0, c.writeError(m, err)
	}
	if !c.wrote.Load() {
		c.wrote.Store(true)
	}
	for n < len(b) {
		sent, err := c.out.SendPart(m, b[n:])
		if n += sent; err != nil {
			return n, c.writeError(m, err)
		}
	}
	return n, nil
}

// copyBuffers are for ReadFrom.
var copyBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// ReadFrom implements [io.ReaderFrom]: it sends what r has, until io.EOF.
func (c *Conn) ReadFrom(r io.Reader) (n int64, err error) {
	b := copyBuffers.Get().(*[64 << 10]byte)
	defer copyBuffers.Put(b)
	for {
		read, err := r.Read(b[:])
		if read > 0 {
			written, err := c.Write(b[:read])
			if n += int64(written); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// SetDeadline sets the deadlines for reading and for writing. See SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets until when Reads may wait, those included that wait already. A time that has
// passed ends them at once, and the zero time means no deadline. After a deadline has passed,
// a new one makes the connection usable again. It fails only after Close.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.reading, t) }

// SetWriteDeadline is SetReadDeadline for Writes. A Write that ends so may have sent a part.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writing, t) }

func (c *Conn) setDeadline(d *direction, t time.Time) error {
	if c.closed.Load() {
		return c.opError("set", net.ErrClosed)
	}
	d.deadline.set(t)
	return nil
}
