package ipc

import (
	"os"
	"sync"
)

// Region is memory that other processes can map, and that only its maker can write. Regions are
// compared as interfaces: one that is made later is another one.
type Region interface {
	// File is the descriptor by which others map the region. It stays the region's.
	File() *os.File
	// Size is how many bytes the region has.
	Size() int
	// Use notes that u has passed the region to other processes. What it returns takes that
	// back.
	Use(u RegionUser) (stop func())
}

// RegionUser is a link that has passed regions to its peer. Its methods are called by any
// goroutine. Dropped and Reclaim do not block; Held may wait for a sender.
type RegionUser interface {
	// Dropped says that a region has gone, of which nobody has a part any more.
	Dropped(r Region)
	// Reclaim releases what the peer has released.
	Reclaim()
	// Held returns how many buffers in a region the peer has that it has not released, as far as
	// is known, and the id of its process. While a sender is held up it may return 0.
	Held(r Region) (pid, buffers int)
}

// RegionUsers are the users of one region. The zero value is useful. It is safe for concurrent
// use.
type RegionUsers struct {
	mu    sync.Mutex
	users map[RegionUser]int
}

// Use adds a user.
func (s *RegionUsers) Use(u RegionUser) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == nil {
		s.users = make(map[RegionUser]int)
	}
	s.users[u]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.users[u]--; s.users[u] <= 0 {
			delete(s.users, u)
		}
	}
}

// All returns all users.
func (s *RegionUsers) All() []RegionUser {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]RegionUser, 0, len(s.users))
	for u := range s.users {
		all = append(all, u)
	}
	return all
}
