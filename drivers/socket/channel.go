package socket

import (
	"io/fs"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// Channel is a host's end of the connection to one worker. It lives from
// [Driver.Spawn] until Close, and over any number of connections. All methods
// are safe for concurrent use.
type Channel struct {
	proc    ipc.Process
	connect Connect
	local   ipc.Hello
	first   ipc.Hello // of the worker, with which later ones have to agree
	uid     int       // of the worker

	place  place
	id     fs.FileInfo // of the socket file, nil if it is gone
	pinned *os.File    // holds the socket, or nil
	target string      // what to dial

	closing chan struct{} // closed by Close
	tidied  chan struct{} // closed when the goroutine that waits for the file's end has left

	// turn is held by whoever changes the link or tells of it: Links, Reconnect.
	turn chan struct{}

	mu     sync.Mutex // guards the following
	link   *link      // the present one, or the last
	shared bool       // link was passed to fn
	fn     func(ipc.Link)
	closed bool
}

var _ ipc.Channel = (*Channel)(nil)

func newChannel(d Driver, at place, p *process.Process, local ipc.Hello, l *link, uid int) *Channel {
	c := &Channel{
		proc: p, connect: d.Connect, local: local, first: l.peer, uid: uid,
		place: at, target: at.path,
		closing: make(chan struct{}), tidied: make(chan struct{}),
		turn: make(chan struct{}, 1), link: l,
	}
	c.id, _ = os.Lstat(at.path)
	if at.dir != "" && !d.Detached {
		// With the names gone nothing can be left behind, whoever is killed.
		if f, name, err := pin(at.path); err == nil {
			c.pinned, c.target = f, name
			at.remove(c.id)
			c.id = nil
			close(c.tidied)
			return c
		}
	}
	go c.tidy()
	return c
}

// tidy removes the worker's socket when the worker has ended and may not have
// been able to.
func (c *Channel) tidy() {
	defer close(c.tidied)
	select {
	case <-c.proc.Done():
		c.place.remove(c.id)
	case <-c.closing:
	}
}

// Process is the worker's process.
func (c *Channel) Process() ipc.Process { return c.proc }

// Links calls fn with the present link before it returns, and with each later
// one before the Reconnect that made it returns. fn must not call Links,
// Reconnect or Close. Links is called once; a second call panics.
func (c *Channel) Links(fn func(ipc.Link)) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.mu.Lock()
	if c.fn != nil {
		c.mu.Unlock()
		panic("tandem: socket: Channel.Links is called twice")
	}
	c.fn, c.shared = fn, true
	l := c.link
	c.mu.Unlock()
	fn(l)
}

// Connected reports whether the channel has a link that neither side has ended.
func (c *Channel) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && c.link.alive()
}

// Disconnect ends the present link in good order and leaves the worker alone.
// What was sent before arrives at the worker; the link's Next returns what has
// arrived here, and then, like Send, fails with an error that wraps
// [ipc.ErrDisconnected]. It does nothing if there is no link. A Reconnect that
// runs meanwhile goes on. The error is always nil.
func (c *Channel) Disconnect() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link.Shutdown()
	return nil
}

// Close ends the present link and a Reconnect that runs, and releases what the
// channel holds. It neither ends nor signals the worker. Whoever was given a
// link by Links still has to close it. The error is always nil.
func (c *Channel) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
		c.link.Shutdown()
	}
	c.mu.Unlock()

	c.turn <- struct{}{} // a Reconnect that ran has left
	defer func() { <-c.turn }()
	<-c.tidied
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shared {
		_ = c.link.Close() // nobody else can
	}
	if c.pinned != nil {
		c.pinned.Close()
		c.pinned = nil
	}
	if c.proc.Exit() != nil {
		c.place.remove(c.id) // tidy may have chosen the other case
	}
	return nil
}
