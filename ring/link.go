package ring

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A Link is this process's end of two rings that it shares with another process, made by
// [Exchange]. It notices when the peer has closed its end or has died, in any way.
//
// Producer and Consumer are used as they are elsewhere: each by one goroutine at a time.
// When the peer is gone both are interrupted with an error that wraps [ErrPeerGone]. What
// the peer had published until then can still be read: [Consumer.Wait] returns the error
// only when nothing is left. A producer goes on writing while its ring has room, though nobody
// reads: who needs to know looks at [Link.Err].
//
// The methods of a Link may be called by any goroutine.
type Link struct {
	Producer *Producer
	Consumer *Consumer

	ours, theirs *Segment
	conn         *net.UnixConn

	end     wait.Failure
	endOnce sync.Once
	done    chan struct{}

	users sync.WaitGroup // what Go has started, and watch

	mu     sync.Mutex // guards closed
	closed bool

	closeOnce sync.Once
	closeErr  error
}

// finish ends the link with err, if it has not ended.
func (l *Link) finish(err error) {
	l.endOnce.Do(func() {
		l.end.Set(err)
		close(l.done)
		l.Producer.Interrupt(err)
		l.Consumer.Interrupt(err)
	})
}

// watch waits for the end of the connection. It reads without room for descriptors, so the
// kernel closes those that a peer might pass.
func (l *Link) watch() {
	var b [1]byte
	if n, _ := l.conn.Read(b[:]); n > 0 {
		l.finish(fmt.Errorf("%w: it has sent more than that", ErrExchange))
		return
	}
	l.finish(ErrPeerGone) // or nothing more, if it is us who have closed
}

// Done returns a channel that is closed when the link ends: the peer is gone, or Close was
// called.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns why the link has ended, or nil if it has not. The error wraps [ErrPeerGone],
// [ErrExchange] if the peer has sent over the connection what it must not send,
// or [ErrClosed] after Close. A ring that is corrupt does not end the link: Producer and
// Consumer say so themselves.
func (l *Link) Err() error { return l.end.Get() }

// Go runs f in a goroutine that may use Producer, Consumer and leases. [Link.Close]
// waits for it. f has to return soon after the link has ended: what waits for the peer is
// interrupted, and a loop that does not wait looks at [Link.Done] or [Link.Err]. After
// Close, Go does nothing and returns false.
func (l *Link) Go(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.users.Go(f)
	return true
}

// Close ends the link: it interrupts Producer and Consumer with [ErrClosed], closes the
// connection, waits for what [Link.Go] has started, and unmaps the memory. No other
// goroutine may use Producer, Consumer, their records or leases when Close is called, nor
// anybody later: the memory is gone. The peer still reads what was published. A function that
// Go has started must not call Close. Closing again does nothing but return the same error.
func (l *Link) Close() error {
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.closed = true // so users does not grow
		l.mu.Unlock()
		l.finish(ErrClosed)
		err := l.conn.Close()
		l.users.Wait()
		l.Consumer.StopSpinning()
		l.closeErr = errors.Join(err, l.unmap())
	})
	return l.closeErr
}

// unmap closes the segments that there are.
func (l *Link) unmap() error {
	var errs []error
	for _, s := range []*Segment{l.ours, l.theirs} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}
