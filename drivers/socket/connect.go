package socket

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
)

// Connect says how [Channel.Reconnect] and [Attach] try to reach a worker. The zero
// value makes 5 attempts with pauses of about 100, 200, 400 and 800 ms.
type Connect struct {
	// Attempts bounds how often the worker is dialled; 0 means 5.
	Attempts int
	// Delay is the pause after the first attempt that failed; 0 means 100 ms.
	// Each later one is twice as long, and each is varied by up to a quarter,
	// so that hosts that failed together do not return together.
	Delay time.Duration
	// DelayFunc, if set, replaces Delay: it returns the pause after the attempt
	// of this number, counted from 1, has failed. It is not called after the
	// last one. It is called by one Reconnect of a channel at a time, but must
	// be safe for concurrent use if channels share it.
	DelayFunc func(attempt int) time.Duration
	// MaxDelay bounds every pause; 0 means 5 s.
	MaxDelay time.Duration

	// Auto makes the channel reconnect by itself, in the same way, when the
	// connection has ended though neither side was to end it: the worker lives,
	// and there was no Disconnect, Detach or Close. If all attempts fail,
	// the channel stays disconnected until Reconnect is called. Calls fail with
	// [ipc.ErrDisconnected] meanwhile, unless worker.WithResume is given.
	Auto bool
	// OnState, if set, is called for each change of the connection, Auto or not: in
	// order, one call at a time, from a goroutine of its own, which holds no lock, so
	// that it may call any method of the channel. A state that is over before OnState
	// could be called may be skipped, but never the last one. No call begins
	// after the channel was closed.
	OnState func(State)
}

const (
	defaultAttempts = 5
	defaultDelay    = 100 * time.Millisecond
	defaultMaxDelay = 5 * time.Second
)

// check returns an error that names the first field that is out of range.
func (c Connect) check() error {
	switch {
	case c.Attempts < 0:
		return fmt.Errorf("tandem: socket: Connect.Attempts is %d, need 0 or more", c.Attempts)
	case c.Delay < 0:
		return fmt.Errorf("tandem: socket: Connect.Delay is %v, need 0 or more", c.Delay)
	case c.MaxDelay < 0:
		return fmt.Errorf("tandem: socket: Connect.MaxDelay is %v, need 0 or more", c.MaxDelay)
	}
	return nil
}

func (c Connect) attempts() int {
	if c.Attempts == 0 {
		return defaultAttempts
	}
	return c.Attempts
}

// delays returns the function that gives the pauses of one Reconnect. It has
// to be called for 1, 2, 3 ... in turn.
func (c Connect) delays() func(attempt int) time.Duration {
	limit := c.MaxDelay
	if limit == 0 {
		limit = defaultMaxDelay
	}
	next := c.DelayFunc
	if next == nil {
		first := c.Delay
		if first == 0 {
			first = defaultDelay
		}
		growing := drivers.NewBackoff(first, limit)
		next = func(int) time.Duration { return growing.Next() }
	}
	return func(attempt int) time.Duration { return min(max(next(attempt), 0), limit) }
}
