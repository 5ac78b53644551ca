//go:build !amd64 || race

package engine

// unlockSoon is unlock for who will soon lock again.
func (l *briefLock) unlockSoon() { l.unlock() }
