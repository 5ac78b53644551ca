package rendezvous

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Client is a connection that [Serve] has taken. It is not yet a client: that it becomes by Established.
// Its methods are safe for concurrent use.
type Client struct {
	// Conn is the connection. Until Established it has a deadline, which nobody else may change. Serve
	// closes it when its function returns; to close it before does no harm.
	Conn *net.UnixConn
	// Peer is the process at the other end.
	Peer Peer

	server *server

	mu          sync.Mutex // guards the following
	err         error      // why it may no longer become a client
	admitted    bool
	established bool
}

var errOver = errors.New("tandem: the connection was given up")

// Admit takes a client's place for the connection, while the time for its hello runs on. Call it when
// there is still a way to tell the peer why there is none: the error is a [*LimitError] if there are too
// many clients by now, or the cause of the end of Serve's context. A second call does nothing.
func (c *Client) Admit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admit()
}

func (c *Client) admit() error {
	if c.err != nil || c.admitted {
		return c.err
	}
	if err := c.server.counts.admit(c.Peer); err != nil {
		return err
	}
	c.admitted = true
	return nil
}

// Established says that the hellos have been exchanged. It does what Admit does, if nobody has called that,
// and takes the deadline off the connection. The errors are those of Admit. A second call does nothing.
func (c *Client) Established() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.admit(); err != nil || c.established {
		return err
	}
	c.established = true
	c.server.counts.leave(helloGroups(c.Peer))
	_ = c.Conn.SetDeadline(time.Time{})
	return nil
}

// Refuse tells the peer why it is no client, as far as that can be done at once.
func (c *Client) Refuse(reason error) { c.server.send(c.Conn, reason) }

// expire ends a hello that is being exchanged, as the context has ended.
func (c *Client) expire(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.established && c.err == nil {
		c.err = context.Cause(ctx)
		_ = c.Conn.SetDeadline(past)
	}
}

// leave ends all that the connection has.
func (c *Client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errOver
	c.Conn.Close()
	if c.admitted {
		c.server.counts.leave(clientGroups(c.Peer))
	}
	if !c.established {
		c.server.counts.leave(helloGroups(c.Peer))
	}
}
