//go:build amd64 && !race

package engine

// unlockSoon is unlock for who will soon lock again: a waiter may see it late, after a moment.
//
// A plain store will do. On this machine no load or store moves behind a later store, and the
// compiler keeps the order of stores to memory that others can see. A load may move before
// it, so wake may overlook a waiter, which then looks by itself.
//
// SYNC: pairs with briefLock.tryLock.
func (l *briefLock) unlockSoon() {
	l.held = 0
	l.wake()
}
