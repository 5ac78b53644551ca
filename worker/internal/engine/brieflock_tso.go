//go:build amd64 && !race

package engine

// unlock releases the lock. A plain store will do: on this machine no load or store before it
// moves behind it, and the compiler keeps stores in their order.
//
// SYNC: pairs with briefLock.tryLock.
func (l *briefLock) unlock() { l.held = 0 }
