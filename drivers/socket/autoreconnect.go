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
	// Connected: there is a link. It is also the first state that is told.
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

// State is what [Connect].OnState is told.
type State struct {
	Kind StateKind
	// Attempt is the number of the attempt, counted from 1, of Reconnecting.
	Attempt int
	// Err is explained at the kinds.
	Err error
}

// watch begins to watch over the link, if somebody wants to know or the channel
// connects by itself. It is called once, with the first link.
func (c *Channel) watch() {
	if !c.connect.Auto && c.connect.OnState == nil {
		return
	}
	c.watching.Go(func() {
		for l := c.present(); l != nil; l = c.lookAfter(l) {
		}
	})
}

// lookAfter tells of link l, waits for its end, connects again if that is
// wanted, and returns the next link, or nil when the channel is closed.
func (c *Channel) lookAfter(l *link) *link {
	c.tell(State{Kind: Connected})
	select {
	case <-l.done:
	case <-c.closing:
		return nil
	}
	end := *l.end.Load()
	c.tell(State{Kind: Disconnected, Err: end})
	if c.connect.Auto && errors.Is(end, ipc.ErrPeerGone) {
		err := c.reconnectUnasked(l)
		if err != nil && !errors.Is(err, errAsked) && !errors.Is(err, ipc.ErrClosed) {
			c.tell(State{Kind: GaveUp, Err: err})
		}
	}
	for {
		select {
		case <-c.closing:
			return nil
		case <-c.adopted:
		}
		if next := c.present(); next != l {
			return next
		}
	}
}

// maxStates bounds the states that wait for a slow OnState; beyond it the oldest
// is left out.
const maxStates = 64

// tell lets OnState know. Nobody waits for it.
func (c *Channel) tell(s State) {
	if c.connect.OnState == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.states) == maxStates {
		c.states = c.states[1:]
	}
	c.states = append(c.states, s)
	if !c.telling {
		c.telling = true
		go c.tellAll()
	}
}

func (c *Channel) tellAll() {
	for {
		c.mu.Lock()
		if len(c.states) == 0 || c.closed {
			c.telling = false
			c.mu.Unlock()
			return
		}
		s := c.states[0]
		c.states = c.states[1:]
		c.mu.Unlock()
		c.connect.OnState(s)
	}
}

func (c *Channel) present() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// settleTime is waited before an automatic Reconnect: the end of a process is seen
// a moment after the end of its link, and then no attempt is to be made.
const settleTime = 50 * time.Millisecond

// errAsked: the user has taken the connection into their own hands.
var errAsked = errors.New("tandem: socket: Disconnect was called")

// reconnectUnasked connects again in the place of link l, unless Disconnect is
// called meanwhile.
func (c *Channel) reconnectUnasked(l *link) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	c.mu.Lock()
	if c.asked {
		c.mu.Unlock()
		return errAsked
	}
	c.stopAuto = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.stopAuto = nil
		c.mu.Unlock()
	}()
	pause(ctx, settleTime, c.proc.Done())
	if err := c.takeTurn(ctx); err != nil {
		return err
	}
	defer c.endTurn()
	switch {
	case c.proc.Exit() != nil:
		return c.exited()
	case c.present() != l:
		return nil // a Reconnect was faster
	}
	return c.establish(ctx, func(attempt int, last error) {
		c.tell(State{Kind: Reconnecting, Attempt: attempt, Err: last})
	})
}
