package pool

import (
	"slices"
	"time"
)

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
		case <-p.growNeeded:
			p.grow()
		case <-idle:
			p.shrink()
		case <-p.ctx.Done():
			return
		}
	}
}

// grow adds slots for the calls that wait, beyond those where workers are being
// started.
func (p *pool) grow() {
	lacking := p.scheduler.Lacking()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.slots {
		if s.member == nil && s.err == nil {
			lacking--
		}
	}
	for range min(lacking, p.opts.maxSize-len(p.slots)) {
		p.last++
		s := p.newSlot(p.last)
		p.slots = append(p.slots, s)
		p.work.Go(func() { p.serve(s, nil) })
	}
}

// shrink drops the slots that no call has needed lately, those that were given
// up first.
func (p *pool) shrink() {
	wanted := max(p.scheduler.Wanted(), p.opts.size)
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.slots) > wanted {
		i := slices.IndexFunc(p.slots, func(s *slot) bool { return s.err != nil })
		if i < 0 {
			i = len(p.slots) - 1
		}
		close(p.slots[i].dropped)
		p.slots = slices.Delete(p.slots, i, i+1)
	}
	p.checkAllFailed()
}
