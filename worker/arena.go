package worker

import (
	"context"

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

// WithServerArena sets the arena from which [Alloc] takes buffers in handlers of the server.
// Without it the server has an arena of its own, of [ipc.DefaultArenaLimit], or, where it serves a
// listener, one for each client, since whoever gets a buffer can read others that lie beside it. It
// panics if a is nil.
func WithServerArena(a *ipc.Arena) ServerOption {
	mustBeSet("WithServerArena", a == nil)
	return func(s *Server) { s.arena = a }
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
func (c *caller) Arena() *ipc.Arena { return c.memory.Arena() }

// Alloc returns a buffer of n bytes, to be filled and sent to the other side or to any other process. It is
// [ipc.Arena.Alloc]. Every client has it, whatever its driver: with one that shares no memory the
// bytes of a buffer travel with the message, so that a program is the same for all.
func (c *caller) Alloc(ctx context.Context, n int) (ipc.Buffer, error) {
	return c.memory.Arena().Alloc(ctx, n)
}

// Forgotten returns how many buffers and files that have come from the other side, in responses, in
// items of streams and in its calls, nobody has released or closed before the garbage collector
// did. Each is also told to the logger ([WithLogger]). It counts for all processes of the client; a
// client of a pool returns what the pool has.
func (c *caller) Forgotten() uint64 { return c.memory.Forgotten.Count() }

// Forgotten returns how many buffers and files that have come from hosts nobody has released or
// closed before the garbage collector did. Each is also told to the logger ([WithServerLogger]).
func (s *Server) Forgotten() uint64 { return s.memory.Forgotten.Count() }
