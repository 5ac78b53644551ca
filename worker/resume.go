package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// WithResume makes calls survive a disconnection. A call that is pending then, and that
// the worker has received, waits until the channel has reconnected, within its context
// and timeout, and then gets its answer. Each handler runs once, and each answer is
// delivered once.
//
// The worker keeps up to maxBytes of answers meanwhile. If there are more, it drops
// answers, and their calls fail with [ipc.ErrDisconnected]. So do calls that the worker
// had not received. Calls that begin while there is no link fail at once. Calls do not
// wait longer than until the process ends, the client is closed, the channel is
// detached, or another host takes the worker over.
//
// Spawn fails with an error that wraps [ipc.ErrUnsupported] if the driver cannot
// reconnect. An attached worker keeps as many bytes as its first host said. WithResume
// panics unless maxBytes is positive.
func WithResume(maxBytes int) Option {
	if maxBytes <= 0 {
		panic(fmt.Sprintf("tandem: WithResume of %d bytes, need more than 0", maxBytes))
	}
	return func(s *Settings) { s.resume = maxBytes }
}

func (s *Settings) checkResume(driver string, caps drivers.Capabilities) error {
	if s.reconnect != nil || s.peerCheck != nil {
		return errors.New("tandem: options WithReconnect and WithPeerCheck are for Dial")
	}
	if s.resume > 0 && !caps.Reconnect {
		return fmt.Errorf("%w by driver %s, which cannot reconnect: WithResume", ipc.ErrUnsupported, driver)
	}
	return nil
}

// Next waits for a session after s. It makes an incarnation an [engine.Resumer].
func (p *incarnation[C]) Next(ctx context.Context, s *engine.Session, until time.Duration) (*engine.Session, error) {
	var timeout <-chan time.Time
	if until > 0 {
		t := time.NewTimer(engine.Until(until))
		defer t.Stop()
		timeout = t.C
	}
	var closed <-chan struct{}
	if c, ok := any(p.channel).(drivers.Reconnectable); ok {
		closed = c.Done()
	}
	select {
	case <-s.Replaced():
		return p.session.Load(), nil
	case <-p.channel.Process().Done():
		return nil, p.explain(s, ipc.ErrPeerGone)
	case <-closed:
		return nil, ipc.ErrDisconnected
	case <-p.client.ctx.Done():
		return nil, ipc.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout:
		return nil, engine.ErrTimeout
	}
}

// Forget makes the worker end calls as soon as there is a link after that of s.
func (p *incarnation[C]) Forget(s *engine.Session, keys ...engine.CallKey) {
	p.mu.Lock()
	if len(p.forgotten) < engine.MaxForgotten {
		p.forgotten = append(p.forgotten, keys...)
	}
	p.mu.Unlock()
	if now := p.session.Load(); now.Number() > s.Number() {
		p.sendForgotten(now)
	}
}

// sendForgotten tells the worker what was forgotten, over the link of s, the present
// one.
func (p *incarnation[C]) sendForgotten(s *engine.Session) {
	p.mu.Lock()
	forgotten := p.forgotten
	p.forgotten = nil
	p.mu.Unlock()
	if len(forgotten) > 0 {
		go s.Forget(forgotten)
	}
}
