package process

import (
	"reflect"
	"sync"
)

// A turn lets one worker at a time use a reader or writer of the user's, which
// several may share: those of a pool, or one after the other by restarts.
type turn struct {
	taken chan struct{} // capacity 1: full while somebody uses it
	key   any           // its key in turns; nil if it is not shared
	users int           // guarded by turns
}

// turns are those in use.
var turns struct {
	sync.Mutex
	of map[any]*turn
}

// turnOf returns the turn of a reader or writer. All that share one of a type that
// can be compared get the same turn; os/exec promises no more within a command.
// Each user leaves it.
func turnOf(v any) *turn {
	if !reflect.ValueOf(v).Comparable() {
		return &turn{taken: make(chan struct{}, 1)}
	}
	turns.Lock()
	defer turns.Unlock()
	t := turns.of[v]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1), key: v}
		if turns.of == nil {
			turns.of = make(map[any]*turn)
		}
		turns.of[v] = t
	}
	t.users++
	return t
}

// leave ends the use of a turn that turnOf has returned.
func (t *turn) leave() {
	if t.key == nil {
		return
	}
	turns.Lock()
	defer turns.Unlock()
	if t.users--; t.users == 0 {
		delete(turns.of, t.key)
	}
}

// take waits for the turn. It returns false once letGo is closed.
func (t *turn) take(letGo <-chan struct{}) bool {
	select {
	case t.taken <- struct{}{}:
	case <-letGo:
		return false
	}
	select {
	case <-letGo:
		t.give()
		return false
	default:
		return true
	}
}

func (t *turn) give() { <-t.taken }
