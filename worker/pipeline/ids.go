package pipeline

import (
	"maps"
	"sync"
)

// IDs is a set of ids, for sinks that take each record once. It is small where the records come about in the
// order of the source and have not become several: then it is a position. A position has either a
// record of its own or parts, as it is in a pipeline; not both. The zero value is an
// empty set. IDs is safe for concurrent use.
type IDs struct {
	mu   sync.Mutex
	low  uint64 // every id before this position is in the set, or does not matter
	rest map[ID]struct{}
}

// Add adds an id, and reports whether it was not there.
func (s *IDs) Add(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(id) {
		return false
	}
	s.add(id)
	return true
}

// Has reports whether an id is there.
func (s *IDs) Has(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has(id)
}

// Forget says that no id comes any more whose position is before this one. They count as there.
func (s *IDs) Forget(before uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before <= s.low {
		return
	}
	s.low = before
	maps.DeleteFunc(s.rest, func(id ID, _ struct{}) bool { return id.Pos < before })
	s.absorb()
}

// Len returns how many ids are kept one by one.
func (s *IDs) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rest)
}

func (s *IDs) has(id ID) bool {
	if id.Pos < s.low {
		return true
	}
	_, ok := s.rest[id]
	return ok
}

func (s *IDs) add(id ID) {
	if id == (ID{Pos: s.low}) {
		s.low++
		s.absorb()
		return
	}
	if s.rest == nil {
		s.rest = make(map[ID]struct{})
	}
	s.rest[id] = struct{}{}
}

// absorb moves low on over records of which there is one.
func (s *IDs) absorb() {
	for len(s.rest) > 0 {
		id := ID{Pos: s.low}
		if _, ok := s.rest[id]; !ok {
			return
		}
		delete(s.rest, id)
		s.low++
	}
}

// snapshot returns what is in the set.
func (s *IDs) snapshot() (low uint64, rest []ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest = make([]ID, 0, len(s.rest))
	for id := range s.rest {
		rest = append(rest, id)
	}
	return s.low, rest
}
