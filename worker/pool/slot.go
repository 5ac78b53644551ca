package pool

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/internal/restart"
	"github.com/tandemipc/tandem/worker/internal/wait"
	"github.com/tandemipc/tandem/worker/pool/internal/scheduler"
)

// slot is a place for one worker of a pool. One goroutine serves it: it alone
// starts, replaces and closes the workers there.
type slot struct {
	id       uint64
	policy   *restart.Counter
	starts   int // so far
	renewals chan renewal
	dropped  chan struct{} // closed by the manager when the slot is to go

	// Guarded by the pool's lock.
	member *member   // nil while it is started
	cmd    *exec.Cmd // what member runs
	err    error     // why the slot was given up; nil if it was not
}

// renewal asks a slot to put a worker that runs cmd in the place of the present
// one. ctx bounds the start.
type renewal struct {
	ctx  context.Context
	cmd  *exec.Cmd
	done chan error // has room for the answer
}

func (p *pool) newSlot(id uint64) *slot {
	return &slot{
		id: id, policy: restart.NewCounter(restart.Policy(p.opts.restart)),
		renewals: make(chan renewal), dropped: make(chan struct{}),
	}
}

// member is a worker in a slot.
type member struct {
	*scheduler.Member
	// ended is closed when the event of its end, or of the end of its link, was
	// published; nil if nobody wants events.
	ended chan struct{}
}

// start starts a worker for a slot.
func (p *pool) start(ctx context.Context, s *slot, cmd *exec.Cmd) (*member, error) {
	s.starts++
	settings, attempt := p.opts.workers, s.starts
	settings.Handlers = &p.handlers
	var ended chan struct{}
	if p.events != nil {
		ended = make(chan struct{})
		end := sync.OnceFunc(func() { close(ended) })
		settings.Events = func(e worker.Event) {
			e.Attempt = attempt
			p.events.Push(e)
			if e.Kind == worker.EventExited || e.Kind == worker.EventDisconnected {
				end()
			}
		}
	}
	client, err := p.spawn(ctx, cmd, settings)
	if err != nil {
		return nil, err
	}
	return &member{scheduler.NewMember(client, s.id), ended}, nil
}

// publish tells the receiver of events, if there is one.
func (p *pool) publish(e worker.Event) {
	e.Time = time.Now()
	p.events.Push(e)
}

// awaitEnd waits until the end of m was published, so that what comes of it is published
// later. cause is why m does not serve any more: an end of its process or its link.
func (p *pool) awaitEnd(m *member, cause error) {
	if m.ended == nil || !errors.Is(cause, ipc.ErrPeerGone) && !errors.Is(cause, ipc.ErrDisconnected) {
		return
	}
	select {
	case <-m.ended:
	case <-p.ctx.Done():
	}
}

// command returns what new workers run.
func (p *pool) command() *exec.Cmd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd
}

// install puts m, which runs cmd, into a slot, in the place of the worker there, and adds one to count, if that is not nil.
func (p *pool) install(s *slot, m *member, cmd *exec.Cmd, count *uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if count != nil { // here, so that nobody sees the worker uncounted
		*count++
	}
	old := s.member
	s.member, s.cmd, s.err = m, cmd, nil
	p.scheduler.SetDown(nil)
	if old == nil {
		p.scheduler.Join(m.Member, p.now())
		return
	}
	p.scheduler.Replace(old.Member, m.Member, p.now())
	p.work.Go(func() { p.retire(old, false) })
}

// vacate takes the worker out of a slot, so that it gets no more calls.
func (p *pool) vacate(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scheduler.Leave(s.member.Member, p.now())
	s.member, s.cmd = nil, nil
}

// retire closes a worker that takes no more calls when it has finished those
// that it has. See closeWorker for lost.
func (p *pool) retire(m *member, lost bool) {
	select {
	case <-p.scheduler.Drained(m.Member):
	case <-p.ctx.Done():
	}
	p.closeWorker(m, lost)
}

// closeWorker closes a worker. How it ends is for the pool's Close to return, unless the worker was lost before.
func (p *pool) closeWorker(m *member, lost bool) {
	pid := m.Client.Process().PID()
	err := m.Client.Close()
	if err == nil {
		return
	}
	if p.ctx.Err() != nil && !lost {
		p.mu.Lock()
		p.faults = append(p.faults, err)
		p.mu.Unlock()
		return
	}
	p.opts.workers.Logger.Warn("tandem: a worker of the pool did not end well", "pid", pid, "error", err)
}

// serve looks after a slot until the slot is dropped or the pool is closed. m is the
// worker there, nil if there is none yet.
func (p *pool) serve(s *slot, m *member) {
	var look <-chan time.Time
	if p.opts.recycle != (Recycle{}) {
		t := time.NewTicker(p.opts.recycle.Interval)
		defer t.Stop()
		look = t.C
	}
	var pid int
	var lived time.Duration
	var cause error
	for {
		if m == nil {
			if m = p.revive(s, pid, lived, cause); m == nil {
				return
			}
		}
		began := time.Now()
		if pid, cause = p.supervise(s, m, look); cause == nil {
			return
		}
		m, lived = nil, time.Since(began)
	}
}

// supervise looks after m, the worker in a slot, and its successors. It returns the pid
// of the one that has ended and why, or nil when the slot is to go.
func (p *pool) supervise(s *slot, m *member, look <-chan time.Time) (pid int, cause error) {
	recycleDue, due := m.RecycleDue, false
	settle := func(next *member) {
		if next != nil {
			m, recycleDue, due = next, next.RecycleDue, false
		}
	}
	for {
		var recycling chan<- struct{}
		if due {
			recycling = p.recycling
		}
		select {
		case <-m.Client.Process().Done():
			p.vacate(s)
			p.work.Go(func() { p.retire(m, true) })
			cause := m.Client.Process().Exit()
			p.awaitEnd(m, cause)
			return m.Client.Process().PID(), cause
		case <-m.Lost:
			p.vacate(s)
			p.work.Go(func() { p.retire(m, true) })
			p.awaitEnd(m, m.Fault)
			return m.Client.Process().PID(), m.Fault
		case <-recycleDue:
			recycleDue, due = nil, true
		case <-look:
			due = due || p.isRecycleDue(m)
		case recycling <- struct{}{}:
			next, err := p.renew(p.ctx, s, p.command(), &p.recycled)
			<-p.recycling
			if due = false; err != nil && p.ctx.Err() == nil {
				p.opts.workers.Logger.Warn("tandem: a worker of the pool is due to be recycled, and its successor cannot be started", "pid", m.Client.Process().PID(), "error", err)
			}
			settle(next)
		case r := <-s.renewals:
			next, err := p.renew(r.ctx, s, r.cmd, nil)
			settle(next)
			r.done <- err
		case <-s.dropped:
			p.vacate(s)
			p.retire(m, false)
			return 0, nil
		case <-p.ctx.Done():
			p.vacate(s)
			p.closeWorker(m, false)
			return 0, nil
		}
	}
}

// renew starts a worker that runs cmd for a slot, and puts it there. See install for count.
func (p *pool) renew(ctx context.Context, s *slot, cmd *exec.Cmd, count *uint64) (*member, error) {
	m, err := p.start(ctx, s, cmd)
	if err == nil {
		p.install(s, m, cmd, count)
	}
	return m, err
}

// isRecycleDue reports whether m is to be recycled.
func (p *pool) isRecycleDue(m *member) bool {
	select {
	case <-m.RecycleDue:
		return true
	default:
	}
	if p.opts.recycle.Memory == 0 {
		return false
	}
	bytes, err := residentMemory(m.Client.Process().PID())
	return err == nil && bytes > p.opts.recycle.Memory // on error it has just ended
}

// revive starts a worker for a vacant slot. It does so at once if cause is nil.
// Otherwise the worker of this pid, which lived for so long, has ended because of cause,
// and revive starts the next one when and as often as the policy allows. It returns nil
// when the slot is to go.
func (p *pool) revive(s *slot, pid int, lived time.Duration, cause error) *member {
	var pause <-chan time.Time // until the next start; nil when there will be none
	free := func() {}
	defer func() { free() }()
	plan := func() {
		free()
		var delay time.Duration
		again := true
		if cause != nil {
			delay, again = s.policy.Next(lived)
			again = again && !restart.InVain(cause)
		}
		switch {
		case !again:
			pause, free = nil, func() {}
			p.publish(worker.Event{Kind: worker.EventGaveUp, PID: pid, Attempt: s.starts, Err: cause})
			p.giveUp(s, cause)
			return
		case cause != nil:
			p.publish(worker.Event{Kind: worker.EventRestarting, PID: pid, Attempt: s.starts + 1, Err: cause, Delay: delay})
		}
		pause, free = wait.After(delay)
	}
	for plan(); ; {
		select {
		case <-pause:
			count := &p.restarts
			if cause == nil {
				count = nil
			}
			m, err := p.renew(p.ctx, s, p.command(), count)
			if err == nil {
				return m
			}
			if p.ctx.Err() != nil {
				return nil
			}
			p.opts.workers.Logger.Warn("tandem: a worker of the pool cannot be started", "error", err)
			cause, lived = err, 0
			plan()
		case r := <-s.renewals:
			m, err := p.renew(r.ctx, s, r.cmd, nil)
			r.done <- err
			if err == nil {
				s.policy = restart.NewCounter(restart.Policy(p.opts.restart))
				return m
			}
		case <-s.dropped:
			return nil
		case <-p.ctx.Done():
			return nil
		}
	}
}

// giveUp notes that there will be no worker in a slot any more, and why.
func (p *pool) giveUp(s *slot, cause error) {
	p.opts.workers.Logger.Error("tandem: a worker of the pool is given up", "error", cause)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.err = cause
	p.checkAllFailed()
}

// checkAllFailed makes calls fail if all slots have been given up.
func (p *pool) checkAllFailed() {
	for _, s := range p.slots {
		if s.err == nil {
			return
		}
	}
	p.scheduler.SetDown(fmt.Errorf("tandem: all workers of the pool have been given up, the last because: %w", p.slots[len(p.slots)-1].err))
}
