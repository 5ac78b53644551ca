package pool

import (
	"context"

	"github.com/tandemipc/tandem/ipc"
)

// Arena returns the arena of the pool, which all its workers share: that of [worker.WithArena], or one of
// the pool's own, which is closed with the pool.
func (p *Pool[C]) Arena() *ipc.Arena { return p.pool.memory.Arena() }

// Alloc returns a buffer of n bytes, to be filled and sent to any worker of the pool, or to others. It
// is [ipc.Arena.Alloc].
func (p *Pool[C]) Alloc(ctx context.Context, n int) (ipc.Buffer, error) {
	return p.pool.memory.Arena().Alloc(ctx, n)
}
