package engine

import "sync"

// semaphore lets a number of requests run, and keeps the others in their order. A nil
// semaphore lets all run.
type semaphore struct {
	limit int

	mu      sync.Mutex
	running int
	waiting []*Request
}

// acquire reports whether r may run now. Otherwise a call of release will return it.
// A request that waits holds no memory of a link.
func (m *semaphore) acquire(r *Request) bool {
	if m == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running < m.limit {
		m.running++
		return true
	}
	r.copyRequest()
	m.waiting = append(m.waiting, r)
	return false
}

// release is called when a request has run, and returns the one that runs next, if
// any.
func (m *semaphore) release() *Request {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 {
		m.waiting = nil
		m.running--
		return nil
	}
	next := m.waiting[0]
	m.waiting[0] = nil
	m.waiting = m.waiting[1:]
	return next
}
