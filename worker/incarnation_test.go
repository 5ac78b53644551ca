package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// fakeChannel is a channel without a process.
type fakeChannel struct{ fakeProcess }

func (c fakeChannel) Process() drivers.Process { return c.fakeProcess }
func (fakeChannel) Links(func(drivers.Link))   {}
func (fakeChannel) Close() error               { return nil }

type fakeProcess struct{ drivers.Process }

func (fakeProcess) PID() int { return 1 }

// A link that dies at once is reported after the worker was reported to be ready.
func TestReadyComesFirst(t *testing.T) {
	var kinds []EventKind
	c := newClient[fakeChannel](Resolve(WithEvents(func(e Event) { kinds = append(kinds, e.Kind) })), drivers.Capabilities{})
	i := c.newIncarnation(fakeChannel{})
	i.mu.Lock()
	i.report(EventDisconnected, ipc.ErrPeerGone)
	i.report(EventReconnected, nil)
	i.mu.Unlock()
	c.run(i)
	i.mu.Lock()
	i.report(EventExited, nil)
	i.mu.Unlock()
	c.events.Close(time.Minute)
	require.Equal(t, []EventKind{EventReady, EventDisconnected, EventReconnected, EventExited}, kinds)
}

// Nothing is reported of a process after its end, though its links may be looked at later.
func TestExitedComesLast(t *testing.T) {
	var kinds []EventKind
	c := newClient[fakeChannel](Resolve(WithEvents(func(e Event) { kinds = append(kinds, e.Kind) })), drivers.Capabilities{})
	i := c.newIncarnation(fakeChannel{})
	c.run(i)
	i.mu.Lock()
	i.report(EventExited, nil)
	i.report(EventReconnected, nil)
	i.mu.Unlock()
	i.disconnected(nil, ipc.ErrPeerGone)
	i.disconnected(new(engine.Session), ipc.ErrPeerGone)
	c.events.Close(time.Minute)
	require.Equal(t, []EventKind{EventReady, EventExited}, kinds)
}
