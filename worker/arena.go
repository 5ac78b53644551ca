package worker

import (
	"context"
	"log/slog"
	"sync"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/engine"
)

// WithArena sets the arena that [Client.Alloc] takes buffers from, and handlers of the client with
// [Alloc]. Without it a client has an arena of its own, of [ipc.DefaultArenaLimit]. Several
// clients may share one, and a buffer crosses to any client, wherever it comes from; but a worker that
// gets a buffer can read others that lie beside it in the same arena. The arena stays the
// caller's. WithArena panics if a is nil.
func WithArena(a *ipc.Arena) Option {
	mustBeSet("WithArena", a == nil)
	return func(s *Settings) { s.Arena = a }
}

// WithServerArena sets the arena from which [Alloc] takes buffers in handlers of the server. Without
// it the server has an arena of its own, of [ipc.DefaultArenaLimit]. It panics if a is nil.
func WithServerArena(a *ipc.Arena) ServerOption {
	mustBeSet("WithServerArena", a == nil)
	return func(s *Server) { s.arena.given = a }
}

// Alloc returns a buffer of n bytes, to be filled and sent: in a response, to the process that has
// called the handler, or on to others. ctx is the context of a handler, or derived from it; for any other
// Alloc fails with an [*ipc.Error] of CodeFailedPrecondition. Otherwise it is [ipc.Arena.Alloc].
// A handler that does not return the buffer has to release it.
func Alloc(ctx context.Context, n int) (ipc.Buffer, error) {
	a := engine.ArenaOf(ctx)
	if a == nil {
		return ipc.Buffer{}, ipc.Errorf(ipc.CodeFailedPrecondition, "tandem: Alloc with a context that is not that of a handler")
	}
	return a.Alloc(ctx, n)
}

// Arena returns the arena of the client: that of [WithArena], or its own. Its own is closed with the client.
func (c *caller) Arena() *ipc.Arena { return c.arena.get() }

// Alloc returns a buffer of n bytes, to be filled and sent to the other side or to any other process. It is
// [ipc.Arena.Alloc]. Every client has it, whatever its driver: with one that shares no memory the
// bytes of a buffer travel with the message, so that a program is the same for all.
func (c *caller) Alloc(ctx context.Context, n int) (ipc.Buffer, error) {
	return c.arena.get().Alloc(ctx, n)
}

// lazyArena is an arena that is made when it is first used, or one that was given.
type lazyArena struct {
	given *ipc.Arena
	log   *slog.Logger // of one that is made

	mu     sync.Mutex
	own    *ipc.Arena
	closed bool
}

func (l *lazyArena) get() *ipc.Arena {
	if l.given != nil {
		return l.given
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own == nil {
		l.own = ipc.NewArena(ipc.ArenaOptions{Logger: l.log})
		if l.closed {
			_ = l.own.Close()
		}
	}
	return l.own
}

// close closes the arena if it was not given.
func (l *lazyArena) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.own != nil {
		_ = l.own.Close() // what it cannot give back is given back at the end of the process
	}
}
