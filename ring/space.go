package ring

import (
	"context"
	"fmt"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// SetWait says how WaitSpace and Send wait for space. The default is
// [WaitAdaptive].
func (p *Producer) SetWait(w Wait) { p.spin.SetMode(wait.Mode(w)) }

// Interrupt makes a goroutine that is blocked for space, and every later
// operation that would block for space, return err, which must not be nil. Only
// the first Interrupt's err counts. Operations that need not block go on as
// before. Any goroutine may call it.
func (p *Producer) Interrupt(err error) {
	if err == nil {
		panic("tandem: ring: interrupt without an error")
	}
	p.interrupted.Set(err)
	p.sleep.Wake()
}

// Claim is [Producer.TryClaim], except that it blocks while there is no room. Errors
// are those of [Producer.WaitSpace].
func (p *Producer) Claim(ctx context.Context, n int) ([]byte, error) {
	buf, err := p.TryClaim(n)
	if err != ErrFull {
		return buf, err
	}
	if err := p.WaitSpace(ctx, n); err != nil {
		return nil, err
	}
	return p.TryClaim(n)
}

// WaitSpace blocks until a record of n bytes fits. It publishes what is pending
// first, since a consumer that sees nothing frees nothing. Room that was there
// once stays until something is committed.
//
// Errors: a [*SizeError] if n exceeds [Producer.MaxRecord], a [*CorruptError],
// ctx's error, the error of [Producer.Interrupt]. When there is room at once, it
// looks neither at ctx nor at Interrupt. It panics if a claim is outstanding or n
// is negative.
func (p *Producer) WaitSpace(ctx context.Context, n int) error {
	if err := p.checkSize(n); err != nil {
		return err
	}
	p.Publish()
	total := p.total(recordSize(uint64(n)))
	if total <= p.limit-p.pos {
		return nil
	}
	ok, err := p.refresh(total)
	if ok || err != nil {
		return err
	}
	err = p.waitSpace(ctx, total)
	if p.wanted != stateNone {
		p.want(stateNone)
	}
	return err
}

func (p *Producer) waitSpace(ctx context.Context, total uint64) error {
	stop := func() bool { return true }
	defer func() { stop() }()
	if p.wanted == stateNone {
		p.want(statePolling)
	}
	p.spin.Begin()
	defer p.spin.Stop()
	for i := 0; ; i++ {
		if ok, err := p.refresh(total); ok || err != nil {
			p.spin.End()
			return err
		}
		if i%64 == 0 {
			if err := p.quit(ctx); err != nil {
				return err
			}
		}
		if p.spin.Again() {
			continue
		}
		if ctx.Done() != nil {
			stop = context.AfterFunc(ctx, p.sleep.Wake)
		}
		for {
			bell := p.sleep.Prepare()
			p.want(stateParked)
			ok, err := p.refresh(total)
			if !ok && err == nil {
				err = p.quit(ctx)
			}
			if ok || err != nil {
				p.sleep.Cancel()
				p.spin.End()
				return err
			}
			p.sleep.Block(bell)
		}
	}
}

// quit returns why a wait for space has to end, if it has.
func (p *Producer) quit(ctx context.Context) error {
	if err := p.interrupted.Get(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tandem: ring: no space: %w", err)
	}
	return nil
}
