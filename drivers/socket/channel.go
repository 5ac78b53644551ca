package socket

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// Channel is a host's end of the connection to one worker. It lives from
// [Driver.Spawn] or [Attach] until Close or Detach, and over any number of
// connections. All methods are safe for concurrent use.
type Channel struct {
	proc        drivers.Process
	foreign     *process.Foreign // proc, if it is not our child
	connect     Connect
	log         *slog.Logger
	local       drivers.Hello
	ref         Ref                 // what later hellos have to agree with
	credentials drivers.Credentials // of the worker

	site     *site     // where the worker listens, if handover is nil
	handover *handover // how the worker gets its connections, if it has no path

	closing  chan struct{} // closed by Close and Detach
	removed  chan struct{} // closed when removeAtExit has returned
	watching sync.WaitGroup

	// turn is held while the link is changed or passed on: by Links and Reconnect.
	turn    chan struct{}
	adopted chan struct{} // capacity 1: link has changed

	mu       sync.Mutex // guards the following
	link     *link      // the present one, or the last
	shared   bool       // link was passed to fn
	fn       func(drivers.Link)
	closed   bool
	detached bool // by Detach
	// userDisconnected: Disconnect was called, and no Reconnect has succeeded since.
	userDisconnected bool
	stopAuto         context.CancelCauseFunc // ends an automatic Reconnect that runs

	states    []State // that OnState was not called with yet
	notifying bool    // notifyAll runs
}

var _ drivers.Channel = (*Channel)(nil)

func (c *Channel) init() {
	c.closing, c.removed = make(chan struct{}), make(chan struct{})
	c.turn, c.adopted = make(chan struct{}, 1), make(chan struct{}, 1)
}

// begin starts what runs beside a channel that has its first link.
func (c *Channel) begin() {
	if c.handover == nil {
		go c.removeAtExit()
	} else {
		close(c.removed)
	}
	c.watch()
}

// removeAtExit removes the worker's socket when the worker has ended: it may not
// have been able to.
func (c *Channel) removeAtExit() {
	defer close(c.removed)
	select {
	case <-c.proc.Done():
		c.site.remove()
	case <-c.closing:
	}
}

// Process is the worker's process. After [Attach] it is not our child: see there.
func (c *Channel) Process() drivers.Process { return c.proc }

// Links calls fn with the present link before it returns, and with each later
// one before the Reconnect that made it returns. fn must not call Links,
// Reconnect or Close. Links is called once; a second call panics, and so does one
// with a nil fn.
func (c *Channel) Links(fn func(drivers.Link)) {
	if fn == nil {
		panic("tandem: socket: Channel.Links is called with a nil function")
	}
	c.turn <- struct{}{}
	defer c.endTurn()
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

// Ref returns what another process needs to take the worker over with [Attach].
// That makes sense for a Detached worker: any other ends with the process that
// started it, and, unless it was given a Path, cannot be found.
func (c *Channel) Ref() Ref { return c.ref }

// Connected reports whether the channel has a link that neither side has ended.
func (c *Channel) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && c.link.alive()
}

// Detached reports whether Detach has given the worker up, so that it outlives the channel.
func (c *Channel) Detached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.detached
}

// Done returns a channel that is closed by Close and Detach.
func (c *Channel) Done() <-chan struct{} { return c.closing }

// Disconnect ends the present link in good order and leaves the worker alone.
// What was sent before arrives at the worker; the link's Next returns what has
// arrived here, and then, like Send, fails with an error that wraps
// [ipc.ErrDisconnected]. It does nothing if there is no link. A Reconnect that
// runs meanwhile goes on, but one that the channel has begun by itself ends. The
// error is always nil.
//
// The worker waits for the host to come back, for as long as worker.WithHostTimeout
// says, or [Driver].HostTimeout if it is detached.
func (c *Channel) Disconnect() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.userDisconnected = true
	if c.stopAuto != nil {
		c.stopAuto(errUserDisconnected)
	}
	c.link.Shutdown()
	return nil
}

// detachTimeout bounds how long Detach waits for room to send its frame.
const detachTimeout = 5 * time.Second

// Detach gives the worker up for good: it tells it to stay, whatever its
// OnDisconnect says, for [Driver].HostTimeout at most, disconnects, and closes the
// channel. Calls that are pending fail with [ipc.ErrDisconnected]. The Ref it
// returns is for [Attach].
//
// It fails, and changes nothing, with an error that wraps [ipc.ErrUnsupported] if
// the worker is not Detached, [ipc.ErrDisconnected] if there is no link to tell it
// over, and [ipc.ErrClosed] if the channel is closed.
func (c *Channel) Detach() (Ref, error) {
	if !c.ref.Detached {
		return Ref{}, fmt.Errorf("tandem: socket: detach worker (pid %d): %w: it was not started with Driver.Detached", c.ref.PID, ipc.ErrUnsupported)
	}
	c.mu.Lock()
	l, closed := c.link, c.closed
	c.mu.Unlock()
	if closed {
		return Ref{}, ipc.ErrClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
	defer cancel()
	if err := l.Send(ctx, &drivers.Frame{Kind: kindDetach}); err != nil {
		return Ref{}, fmt.Errorf("tandem: socket: detach worker (pid %d): cannot tell it: %w", c.ref.PID, err)
	}
	c.end(true)
	return c.ref, c.Close()
}

// end closes the channel, but frees nothing.
func (c *Channel) end(detached bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed, c.detached = true, detached
	close(c.closing)
	if c.link != nil {
		c.link.finish(errChannelClosed)
	}
}

var errChannelClosed = fmt.Errorf("%w: the channel is closed (%w)", ipc.ErrDisconnected, ipc.ErrClosed)

// Close ends the present link and a Reconnect that runs, and releases what the
// channel holds. It neither ends nor signals the worker. Whoever was given a
// link by Links still has to close it. The error is always nil.
func (c *Channel) Close() error {
	c.end(false)
	c.turn <- struct{}{} // a Reconnect that ran has returned
	defer c.endTurn()
	c.watching.Wait()
	<-c.removed

	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shared && c.link != nil {
		_ = c.link.Close() // nobody else can
	}
	if c.handover != nil {
		c.handover.close()
	} else {
		if c.proc.Exit() != nil {
			c.site.remove() // removeAtExit may have chosen the other case
		}
		c.site.close()
	}
	if c.foreign != nil {
		c.foreign.Close()
	}
	return nil
}
