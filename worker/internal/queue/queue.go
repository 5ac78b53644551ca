// Package queue delivers values to a receiver that may be slow, in their order.
package queue

import (
	"sync"
	"time"

	"github.com/tandemipc/tandem/worker/internal/wait"
)

// Queue delivers values one at a time, from a goroutine of its own. While the receiver
// is busy it keeps a number of them. When there are more it drops the oldest and counts
// them. A nil Queue drops all. It is safe for concurrent use.
type Queue[T any] struct {
	deliver func(value T, missed int)
	limit   int
	wake    chan struct{} // has a token if there may be something to do
	done    chan struct{} // closed when all is delivered after Close

	mu     sync.Mutex // guards the following
	values []T
	missed int
	closed bool
}

// New returns a queue that keeps limit values. deliver gets each value, and how many
// were dropped before it. The queue has to be closed.
func New[T any](limit int, deliver func(value T, missed int)) *Queue[T] {
	q := &Queue[T]{deliver: deliver, limit: limit, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Push puts a value into the queue. It never blocks. After Close it does nothing.
func (q *Queue[T]) Push(value T) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.values) == q.limit {
		q.values = q.values[1:]
		q.missed++
	}
	q.values = append(q.values, value)
	q.notify()
}

func (q *Queue[T]) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop removes the first value. more is false when there will be none.
func (q *Queue[T]) pop() (value T, missed int, ok, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.values) == 0 {
		return value, 0, false, !q.closed
	}
	value, q.values = q.values[0], q.values[1:]
	missed, q.missed = q.missed, 0
	return value, missed, true, true
}

func (q *Queue[T]) run() {
	defer close(q.done)
	for {
		value, missed, ok, more := q.pop()
		switch {
		case ok:
			q.deliver(value, missed)
		case !more:
			return
		default:
			<-q.wake
		}
	}
}

// Close takes no more values, and waits until those that there are have been delivered,
// for d at most.
func (q *Queue[T]) Close(d time.Duration) {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.closed = true
	q.notify()
	q.mu.Unlock()
	wait.Within(q.done, d, nil)
}
