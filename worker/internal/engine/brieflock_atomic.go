//go:build !amd64 || race

package engine

import "sync/atomic"

// unlock releases the lock.
//
// SYNC: pairs with briefLock.tryLock.
func (l *briefLock) unlock() { atomic.StoreUint32(&l.held, 0) }
