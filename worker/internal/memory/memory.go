// Package memory has what a client, a pool or a server keeps for buffers: an arena to make them in, and the
// count of those that it has received and forgotten.
package memory

import (
	"log/slog"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

// Keeper is what one client, pool or server keeps. Init has to be called before it is used. It is safe for
// concurrent use.
type Keeper struct {
	Forgotten Forgotten

	given *ipc.Arena // or nil

	mu     sync.Mutex
	own    *ipc.Arena // nil before its first use
	closed bool
}

// Init makes k ready: with an arena, or nil for one of its own, and with the logger, perhaps nil, that is told
// of what was forgotten.
func (k *Keeper) Init(arena *ipc.Arena, log *slog.Logger) {
	k.given, k.Forgotten.log = arena, log
}

// Arena returns the arena: that which was given, or its own, which is made when it is first asked for.
func (k *Keeper) Arena() *ipc.Arena {
	if k.given != nil {
		return k.given
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.own == nil {
		k.own = ipc.NewArena(ipc.ArenaOptions{Logger: k.Forgotten.log})
		if k.closed {
			_ = k.own.Close()
		}
	}
	return k.own
}

// Close closes the arena if it was not given.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.own != nil {
		_ = k.own.Close() // what it cannot give back is given back at the end of the process
	}
}
