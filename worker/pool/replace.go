package pool

import (
	"github.com/tandemipc/tandem/worker/internal/command"

	"context"
	"fmt"
	"os/exec"

	"github.com/tandemipc/tandem/ipc"
)

// Replace makes all workers of the pool run another program, such as a newer build,
// without dropping a call. For one worker after the other, it starts a new worker that
// runs cmd, which takes the place of the old one; the old one finishes its calls and is
// closed. When Replace returns, all further calls go to the new program, and earlier
// calls may still run in the old one. Replace also starts workers that the pool had given
// up.
//
// If a new worker cannot be started, or if ctx ends, Replace returns the reason, and the
// pool stays with the old program: Replace replaces the new workers by old ones. If that
// fails, too, the error says so; then these workers run the new program until they end,
// and their successors run the old one.
//
// One Replace runs at a time; others wait for it.
func (p *Pool[C]) Replace(ctx context.Context, cmd *exec.Cmd) error { return p.pool.replace(ctx, cmd) }

func (p *pool) replace(ctx context.Context, cmd *exec.Cmd) error {
	select {
	case p.replacing <- struct{}{}:
		defer func() { <-p.replacing }()
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return ipc.ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()

	old, cmd := p.command(), command.Clone(cmd)
	err := p.converge(ctx, cmd, true)
	if err == nil {
		return nil
	}
	if back := p.converge(p.ctx, old, false); p.ctx.Err() != nil {
		return ipc.ErrClosed
	} else if back != nil {
		return fmt.Errorf("tandem: replace the workers of the pool: %w; some run the new program still, since the old one cannot be started: %w", err, back)
	}
	return fmt.Errorf("tandem: replace the workers of the pool, which run the old program still: %w", err)
}

// converge renews one slot after the other until all that are occupied, or all,
// have a worker that runs cmd.
func (p *pool) converge(ctx context.Context, cmd *exec.Cmd, all bool) error {
	p.mu.Lock()
	p.cmd = cmd
	p.mu.Unlock()
	for {
		s := p.slotWithout(cmd, all)
		if s == nil {
			return nil
		}
		r := renewal{ctx, cmd, make(chan error, 1)}
		select {
		case s.renewals <- r:
			if err := <-r.done; err != nil {
				return err
			}
		case <-s.dropped:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// slotWithout returns a slot whose worker does not run cmd, or, if vacant ones are
// meant too, one without a worker, and nil if there is none.
func (p *pool) slotWithout(cmd *exec.Cmd, vacant bool) *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if s.cmd != cmd && (vacant || s.member != nil) {
			return s
		}
	}
	return nil
}
