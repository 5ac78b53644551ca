package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/bench/internal/suite"
)

// errStopped: the other side, or the user, has ended the run.
var errStopped = errors.New("the round trip was not answered")

// trip returns what makes one round trip and checks the answer, and how many
// are to be timed together.
func (l *limitFiles) trip(kind string, stop func() bool) (trip func() error, together int) {
	a, b := word(l.memory, lineA), word(l.memory, lineB)
	var n uint64
	switch kind {
	case oneLine:
		return func() error {
			n += 2
			atomic.StoreUint64(a, n-1)
			if !await(a, n, stop) {
				return errStopped
			}
			return nil
		}, bounces
	case twoLines:
		return func() error {
			n++
			atomic.StoreUint64(a, n)
			if !await(b, n, stop) {
				return errStopped
			}
			return nil
		}, bounces
	case futex:
		fa, fb := word32(l.memory, lineA), word32(l.memory, lineB)
		return func() error {
			n++
			atomic.StoreUint32(fa, uint32(n))
			futexWake(fa)
			if !awaitFutex(fb, uint32(n), stop) {
				return errStopped
			}
			return nil
		}, 1
	}
	out, in := make([]byte, limitMessage), make([]byte, limitMessage)
	w, r := io.Writer(l.out), io.Reader(l.in)
	if kind == unixEcho {
		w, r = l.socket, l.socket
	}
	return func() error {
		n++
		suite.Stamp(out, n)
		if _, err := w.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, in); err != nil {
			return err
		}
		if !bytes.Equal(in, out) {
			return fmt.Errorf("%w: sent %x, got %x", suite.ErrGarbled, out, in)
		}
		return nil
	}, 1
}

// await spins until *w is n or stopWord. It returns false if it is the latter,
// or when stop, which is asked now and then, says so.
func await(w *uint64, n uint64, stop func() bool) bool {
	for i := 1; ; i++ {
		switch atomic.LoadUint64(w) {
		case n:
			return true
		case stopWord:
			return false
		}
		if i%(1<<16) == 0 {
			if stop() {
				return false
			}
			runtime.Gosched()
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // cannot fail
		}
	}
}

func never() bool { return false }

// futexSlice is how long a waiter sleeps before it looks whether to stop.
const futexSlice = 100 * time.Millisecond

// awaitFutex sleeps until *w is n; otherwise it is like await.
func awaitFutex(w *uint32, n uint32, stop func() bool) bool {
	for {
		switch v := atomic.LoadUint32(w); v {
		case n:
			return true
		case uint32(stopWord & (1<<32 - 1)):
			return false
		default:
			if !futexWait(w, v, futexSlice) && stop() {
				return false
			}
		}
	}
}
