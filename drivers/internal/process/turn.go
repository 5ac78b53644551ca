package process

import (
	"reflect"
	"sync"
)

// A turn lets one worker at a time use a reader or writer of the user's, which
// several may share: those of a pool, or one after the other by restarts.
type turn struct {
	taken chan struct{} // capacity 1: full while somebody uses it
	key   turnKey       // its key in turns; zero if it is not shared
	users int           // guarded by turns
}

// turnKey is a reader or writer, and where it is used: bubbles share no channels.
type turnKey struct {
	of     any
	bubble string
}

// turns are those in use.
var turns struct {
	sync.Mutex
	of map[turnKey]*turn
}

// turnOf returns the turn of a reader or writer. All that share one of a type that
// can be compared get the same turn; os/exec promises no more within a command.
// Each user leaves it.
func turnOf(v any) *turn {
	if !reflect.ValueOf(v).Comparable() {
		return &turn{taken: make(chan struct{}, 1)}
	}
	key := turnKey{v, bubble()}
	turns.Lock()
	defer turns.Unlock()
	t := turns.of[key]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1), key: key}
		if turns.of == nil {
			turns.of = make(map[turnKey]*turn)
		}
		turns.of[key] = t
	}
	t.users++
	return t
}

// leave ends the use of a turn that turnOf has returned.
func (t *turn) leave() {
	if t.key == (turnKey{}) {
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
