package worker

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// seat is a place for one worker of a pool. One goroutine tends it: it alone
// starts, replaces and closes the workers that sit there.
type seat struct {
	id       uint64
	policy   *restarts
	starts   int // so far
	renewals chan renewal
	dropped  chan struct{} // closed by the manager when the seat is to go

	// Guarded by the pool's lock.
	member *member   // nil while it is started
	cmd    *exec.Cmd // what member runs
	err    error     // why the seat was given up; nil if it was not
}

// renewal asks a seat to put a worker that runs cmd in the place of the present
// one. ctx bounds the start.
type renewal struct {
	ctx  context.Context
	cmd  *exec.Cmd
	done chan error // has room for the answer
}

func (p *pool) newSeat(id uint64) *seat {
	return &seat{
		id: id, policy: p.opts.restart.begin(),
		renewals: make(chan renewal), dropped: make(chan struct{}),
	}
}

// start starts a worker for a seat.
func (p *pool) start(ctx context.Context, s *seat, cmd *exec.Cmd) (*member, error) {
	s.starts++
	o, attempt := p.opts.options, s.starts
	o.handlers = &p.registry
	if p.events != nil {
		o.events = func(e Event) {
			e.Attempt = attempt
			p.events.add(e)
		}
	}
	client, err := p.spawn(ctx, cmd, o)
	if err != nil {
		return nil, err
	}
	return &member{client: client, seat: s.id, worn: make(chan struct{}), lost: make(chan struct{})}, nil
}

// command returns what new workers run.
func (p *pool) command() *exec.Cmd {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd
}

// sit puts m, which runs cmd, into a seat instead of whoever sits there.
func (p *pool) sit(s *seat, m *member, cmd *exec.Cmd) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := s.member
	s.member, s.cmd, s.err = m, cmd, nil
	p.scheduler.setDown(nil)
	if old == nil {
		p.scheduler.add(m, p.now())
		return
	}
	p.scheduler.replace(old, m, p.now())
	p.work.Go(func() { p.retire(old) })
}

// rise takes the worker out of a seat, so that it gets no more calls.
func (p *pool) rise(s *seat) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scheduler.remove(s.member, p.now())
	s.member, s.cmd = nil, nil
}

// retire closes a worker that takes no more calls when it has finished those
// that it has.
func (p *pool) retire(m *member) {
	select {
	case <-p.scheduler.drained(m):
	case <-p.ctx.Done():
	}
	p.bury(m)
}

// bury closes a worker.
func (p *pool) bury(m *member) {
	pid := m.client.process().PID()
	err := m.client.Close()
	if err == nil {
		return
	}
	if p.ctx.Err() != nil {
		p.mu.Lock()
		p.faults = append(p.faults, err)
		p.mu.Unlock()
		return
	}
	p.opts.log.Warn("tandem: a worker of the pool did not end well", "pid", pid, "error", err)
}

// tend looks after a seat, in which m sits, or nobody yet if it is nil, until
// the seat is dropped or the pool is closed.
func (p *pool) tend(s *seat, m *member) {
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
		if pid, cause = p.attend(s, m, look); cause == nil {
			return
		}
		m, lived = nil, time.Since(began)
	}
}

// attend looks after a seat in which m and its successors sit. It returns the
// one that has ended and why, or nil when the seat is to go.
func (p *pool) attend(s *seat, m *member, look <-chan time.Time) (pid int, cause error) {
	worn, due := m.worn, false
	settle := func(next *member) {
		if next != nil {
			m, worn, due = next, next.worn, false
		}
	}
	for {
		var recycling chan<- struct{}
		if due {
			recycling = p.recycling
		}
		select {
		case <-m.client.process().Done():
			p.rise(s)
			p.work.Go(func() { p.retire(m) })
			return m.client.process().PID(), m.client.process().Exit()
		case <-m.lost:
			p.rise(s)
			p.work.Go(func() { p.retire(m) })
			return m.client.process().PID(), m.fault
		case <-worn:
			worn, due = nil, true
		case <-look:
			due = due || p.isWorn(m)
		case recycling <- struct{}{}:
			next, err := p.renew(p.ctx, s, p.command())
			<-p.recycling
			if due = false; err != nil && p.ctx.Err() == nil {
				p.opts.log.Warn("tandem: a worker of the pool is due to be recycled, and its successor cannot be started", "pid", m.client.process().PID(), "error", err)
			} else if err == nil {
				p.count(&p.recycled)
			}
			settle(next)
		case r := <-s.renewals:
			next, err := p.renew(r.ctx, s, r.cmd)
			settle(next)
			r.done <- err
		case <-s.dropped:
			p.rise(s)
			p.retire(m)
			return 0, nil
		case <-p.ctx.Done():
			p.rise(s)
			p.bury(m)
			return 0, nil
		}
	}
}

// renew starts a worker that runs cmd for a seat, and puts it there.
func (p *pool) renew(ctx context.Context, s *seat, cmd *exec.Cmd) (*member, error) {
	m, err := p.start(ctx, s, cmd)
	if err == nil {
		p.sit(s, m, cmd)
	}
	return m, err
}

// isWorn reports whether m is to be recycled.
func (p *pool) isWorn(m *member) bool {
	select {
	case <-m.worn:
		return true
	default:
	}
	if p.opts.recycle.Memory == 0 {
		return false
	}
	bytes, err := residentMemory(m.client.process().PID())
	return err == nil && bytes > p.opts.recycle.Memory // on error it has just ended
}

// revive starts a worker for a seat where nobody sits: at once if cause is nil,
// and otherwise, since the one of this pid that lived for so long has ended by
// it, when and as often as the policy allows. It returns nil when the seat is to go.
func (p *pool) revive(s *seat, pid int, lived time.Duration, cause error) *member {
	var pause <-chan time.Time // until the next start; nil when there will be none
	wait := func() {
		var delay time.Duration
		again := true
		if cause != nil {
			delay, again = s.policy.next(lived)
			again = again && !inVain(cause)
		}
		switch {
		case !again:
			pause = nil
			p.giveUp(s, cause)
			p.events.add(Event{Kind: EventGaveUp, PID: pid, Attempt: s.starts, Err: cause})
			return
		case cause != nil:
			p.events.add(Event{Kind: EventRestarting, PID: pid, Attempt: s.starts + 1, Err: cause, Delay: delay})
		}
		pause = time.After(delay)
	}
	for wait(); ; {
		select {
		case <-pause:
			m, err := p.renew(p.ctx, s, p.command())
			if err == nil {
				if cause != nil {
					p.count(&p.restarts)
				}
				return m
			}
			if p.ctx.Err() != nil {
				return nil
			}
			p.opts.log.Warn("tandem: a worker of the pool cannot be started", "error", err)
			cause, lived = err, 0
			wait()
		case r := <-s.renewals:
			m, err := p.renew(r.ctx, s, r.cmd)
			r.done <- err
			if err == nil {
				s.policy = p.opts.restart.begin()
				return m
			}
		case <-s.dropped:
			return nil
		case <-p.ctx.Done():
			return nil
		}
	}
}

func (p *pool) count(n *uint64) {
	p.mu.Lock()
	*n++
	p.mu.Unlock()
}

// giveUp notes that nobody will sit in a seat any more, and why.
func (p *pool) giveUp(s *seat, cause error) {
	p.opts.log.Error("tandem: a worker of the pool is given up", "error", cause)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.err = cause
	p.judge()
}

// judge looks whether there is still a seat that is not given up.
func (p *pool) judge() {
	for _, s := range p.seats {
		if s.err == nil {
			return
		}
	}
	p.scheduler.setDown(fmt.Errorf("tandem: all workers of the pool have been given up, the last because: %w", p.seats[len(p.seats)-1].err))
}

// manage lets the pool grow and shrink.
func (p *pool) manage() {
	var idle <-chan time.Time
	if p.opts.maxSize > p.opts.size {
		t := time.NewTicker(p.opts.idle)
		defer t.Stop()
		idle = t.C
	}
	for {
		select {
		case <-p.hungry:
			p.grow()
		case <-idle:
			p.shrink()
		case <-p.ctx.Done():
			return
		}
	}
}

// grow adds seats for the calls that wait, beyond those where workers are being
// started.
func (p *pool) grow() {
	lacking := p.scheduler.lacking()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seats {
		if s.member == nil && s.err == nil {
			lacking--
		}
	}
	for range min(lacking, p.opts.maxSize-len(p.seats)) {
		p.last++
		s := p.newSeat(p.last)
		p.seats = append(p.seats, s)
		p.work.Go(func() { p.tend(s, nil) })
	}
}

// shrink drops the seats that no call has needed lately, those that were given
// up first.
func (p *pool) shrink() {
	wanted := max(p.scheduler.wanted(), p.opts.size)
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.seats) > wanted {
		i := slices.IndexFunc(p.seats, func(s *seat) bool { return s.err != nil })
		if i < 0 {
			i = len(p.seats) - 1
		}
		close(p.seats[i].dropped)
		p.seats = slices.Delete(p.seats, i, i+1)
	}
	p.judge()
}
