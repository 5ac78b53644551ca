package flow

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandemipc/tandem/ipc"
)

// Claim returns n bytes to build an item in, which Commit then sends. Until then other senders of
// the flow wait. It panics if n is negative.
func (f *Flow) Claim(ctx context.Context, n int) ([]byte, error) {
	if n < 0 {
		panic(fmt.Sprintf("tandem: claim of %d bytes", n))
	}
	if err := f.lock(ctx); err != nil {
		return nil, err
	}
	o := &f.out
	err := f.sendable()
	if most := f.port.config.MaxItem; err == nil && n > most {
		err = &ipc.SizeError{Size: n, Limit: most}
	}
	if err == nil && header+itemHeader+n <= f.frameSize() && len(o.buffer)+itemHeader+n > f.frameSize() {
		err = f.sendGathered(ctx) // so that Claim waits, and not Commit
	}
	if err != nil {
		f.unlock()
		return nil, err
	}
	if o.own = slices.Grow(o.own[:0], max(n, 1)); cap(o.own) > maxKept {
		o.claimed, o.own = o.own[:n:n], nil
	} else {
		o.claimed = o.own[:n:n]
	}
	return o.claimed, nil
}

// Commit sends the first n bytes of what was claimed, or nothing if n is negative. It panics if n
// is more than was claimed, or nothing was.
func (f *Flow) Commit(ctx context.Context, n int) error {
	o := &f.out
	if o.claimed == nil {
		panic("tandem: commit without a claim")
	}
	if n > len(o.claimed) {
		panic(fmt.Sprintf("tandem: commit of %d bytes of %d", n, len(o.claimed)))
	}
	defer f.unlock()
	item := o.claimed
	if o.claimed = nil; n < 0 {
		return nil
	}
	return f.send(ctx, item[:n], 0)
}

// SendPart sends an item with the first n bytes of b at once, after those that are gathered: as
// many as one frame has room for.
func (f *Flow) SendPart(ctx context.Context, b []byte) (n int, err error) {
	if err := f.lock(ctx); err != nil {
		return 0, err
	}
	defer f.unlock()
	if err := f.sendable(); err != nil {
		return 0, err
	}
	if err := f.sendGathered(ctx); err != nil {
		return 0, err
	}
	n = min(len(b), f.frameSize()-header-itemHeader, f.port.config.MaxItem)
	if err := f.sendLarge(ctx, b[:n], 0); err != nil {
		return 0, err
	}
	return n, nil
}
