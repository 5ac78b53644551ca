package socket

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// StateKind says what has become of the connection of a [Channel].
type StateKind uint8

// The states of a connection.
const (
	// Connected: there is a link. OnState is first called with it.
	Connected StateKind = iota + 1
	// Disconnected: the link has ended. State.Err says why: it wraps
	// [ipc.ErrDisconnected] if this side has ended it, and otherwise
	// [ipc.ErrPeerGone].
	Disconnected
	// Reconnecting: attempt number State.Attempt begins. State.Err is why the one
	// before has failed, nil for the first.
	Reconnecting
	// GaveUp: no more attempts are made, for State.Err. It wraps the worker's
	// [*ipc.ExitError] if the process has ended.
	GaveUp
)

// String returns the name of the kind.
func (k StateKind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case Reconnecting:
		return "reconnecting"
	case GaveUp:
		return "gave up"
	}
	return fmt.Sprintf("state(%d)", uint8(k))
}

// State is what [Connect].OnState is called with.
type State struct {
	Kind StateKind
	// Attempt is the number of the attempt, counted from 1, of Reconnecting.
	Attempt int
	// Err is explained at the kinds.
	Err error
}

// watch starts to supervise the links if OnState or Auto asks for that. It is
// called once, with the first link.
func (c *Channel) watch() {
	if !c.connect.Auto && c.connect.OnState == nil {
		return
	}
	c.watching.Go(func() {
		for l := c.current(); l != nil; l = c.supervise(l) {
		}
	})
}

// supervise calls OnState for link l, waits for its end, reconnects if Auto asks
// for that, and returns the next link, or nil when the channel is closed.
func (c *Channel) supervise(l *link) *link {
	c.notify(State{Kind: Connected})
	select {
	case <-l.done:
	case <-c.closing:
		return nil
	}
	end := *l.end.Load()
	c.notify(State{Kind: Disconnected, Err: end})
	if c.connect.Auto && errors.Is(end, ipc.ErrPeerGone) {
		err := c.autoReconnect(l)
		if err != nil && !errors.Is(err, errUserDisconnected) && !errors.Is(err, ipc.ErrClosed) {
			c.notify(State{Kind: GaveUp, Err: err})
		}
	}
	for {
		select {
		case <-c.closing:
			return nil
		case <-c.adopted:
		}
		if next := c.current(); next != l {
			return next
		}
	}
}

// maxStates bounds the states that wait for a slow OnState. Of more, the oldest is
// dropped.
const maxStates = 64

// notify has OnState called with s, and does not wait for that.
func (c *Channel) notify(s State) {
	if c.connect.OnState == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.states) == maxStates {
		c.states = c.states[1:]
	}
	c.states = append(c.states, s)
	if !c.notifying {
		c.notifying = true
		go c.notifyAll()
	}
}

// notifyAll calls OnState until no state is left.
func (c *Channel) notifyAll() {
	for {
		c.mu.Lock()
		if len(c.states) == 0 || c.closed {
			c.notifying = false
			c.mu.Unlock()
			return
		}
		s := c.states[0]
		c.states = c.states[1:]
		c.mu.Unlock()
		c.connect.OnState(s)
	}
}

// current returns the present link, or the last one.
func (c *Channel) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// autoReconnectDelay is the pause before an automatic Reconnect: the end of a process
// is seen a moment after the end of its link, and then no attempt is to be made.
const autoReconnectDelay = 50 * time.Millisecond

// errUserDisconnected ends an automatic Reconnect: the user has called Disconnect.
var errUserDisconnected = errors.New("tandem: socket: Disconnect was called")

// autoReconnect connects again in the place of link l, unless Disconnect is
// called meanwhile.
func (c *Channel) autoReconnect(l *link) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	c.mu.Lock()
	if c.userDisconnected {
		c.mu.Unlock()
		return errUserDisconnected
	}
	c.stopAuto = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.stopAuto = nil
		c.mu.Unlock()
	}()
	pause(ctx, autoReconnectDelay, c.proc.Done())
	if err := c.takeTurn(ctx); err != nil {
		return err
	}
	defer c.endTurn()
	switch {
	case c.proc.Exit() != nil:
		return c.exited()
	case c.current() != l:
		return nil // a Reconnect was faster
	}
	return c.establish(ctx, func(attempt int, last error) {
		c.notify(State{Kind: Reconnecting, Attempt: attempt, Err: last})
	})
}
