// Package pipe is a link inside of one process.
package pipe

import (
	"context"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Driver is the name of the links' driver.
const Driver = "local"

// room is how many bytes of frames may wait for their reader, where there is more than one of
// them.
const room = 1 << 20

// New returns the two ends of a link. The fields of a hello that say who has sent it are set.
func New(a, b drivers.Hello) (ofA, ofB drivers.Link) {
	toA, toB := newQueue(a), newQueue(b)
	return &link{in: toA, out: toB}, &link{in: toB, out: toA}
}

// queue is one direction of a link.
type queue struct {
	owner drivers.Hello // who reads it

	mu     sync.Mutex
	change *sync.Cond
	frames []drivers.Frame
	bytes  int
	end    error // why nothing more comes
	armed  bool
	woken  bool
	room   chan struct{} // closed when there is room; nil if nobody waits for that
}

func newQueue(owner drivers.Hello) *queue {
	owner.PID, owner.Driver = os.Getpid(), Driver
	if owner.MaxMessage == 0 {
		owner.MaxMessage = drivers.DefaultMaxMessage
	}
	q := &queue{owner: owner}
	q.change = sync.NewCond(&q.mu)
	return q
}

// finish ends the queue. Only the first call counts.
func (q *queue) finish(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return
	}
	q.end = err
	q.giveRoom()
	q.change.Broadcast()
}

// giveRoom wakes those that wait for room. q is locked.
func (q *queue) giveRoom() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// link is one end.
type link struct {
	in, out *queue

	sleeping sync.Mutex // held by Sleep
}

var (
	_ drivers.Link       = (*link)(nil)
	_ drivers.Identifier = (*link)(nil)
)

// cost is what a frame takes of the room.
func cost(f *drivers.Frame) int {
	n := len(f.Payload) + len(f.Handles) + drivers.MaxHeader
	if f.Meta != nil {
		n += f.Meta.EncodedSize()
	}
	return n
}

// Send implements [drivers.Link].
func (l *link) Send(ctx context.Context, sent *drivers.Frame) error {
	size := cost(sent)
	if limit := l.out.owner.MaxMessage; size > limit {
		return &ipc.SizeError{Size: size, Limit: limit}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f := drivers.Frame{
		Kind: sent.Kind, Owned: true, Tx: sent.Tx, Method: sent.Method, Remaining: sent.Remaining, Meta: sent.Meta,
		Payload: append([]byte(nil), sent.Payload...),
	}
	if len(sent.Handles) > 0 {
		f.Handles = append([]byte(nil), sent.Handles...)
	}
	q := l.out
	q.mu.Lock()
	for q.end == nil && len(q.frames) > 0 && q.bytes+size > room {
		if q.room == nil {
			q.room = make(chan struct{})
		}
		free := q.room
		q.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		q.mu.Lock()
	}
	defer q.mu.Unlock()
	if q.end != nil {
		return l.why()
	}
	q.frames = append(q.frames, f)
	q.bytes += size
	if q.armed {
		q.change.Broadcast()
	}
	return nil
}

// why returns why the link has ended, as this side sees it.
func (l *link) why() error {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	return l.in.end
}

// SendBatch implements [drivers.Link].
func (l *link) SendBatch(ctx context.Context, frames []drivers.Frame) (int, error) {
	for i := range frames {
		if err := l.Send(ctx, &frames[i]); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// Next implements [drivers.Link].
func (l *link) Next(f *drivers.Frame) (bool, error) {
	q := l.in
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) == 0 {
		return false, q.end
	}
	*f = q.frames[0]
	q.frames[0] = drivers.Frame{}
	if q.frames = q.frames[1:]; len(q.frames) == 0 {
		q.frames = nil
	}
	f.More = len(q.frames) > 0
	if q.bytes -= cost(f); q.bytes <= room/2 {
		q.giveRoom()
	}
	return true, nil
}

// Hold implements [drivers.Link]. Payloads are owned, so there is nothing to hold.
func (l *link) Hold() func() { return func() {} }

// Recycle implements [drivers.Link].
func (l *link) Recycle([]byte) {}

// Spin implements [drivers.Link].
func (l *link) Spin() bool { return false }

// Arm implements [drivers.Link].
func (l *link) Arm() { l.set(true) }

// Disarm implements [drivers.Link].
func (l *link) Disarm() { l.set(false) }

func (l *link) set(armed bool) {
	l.in.mu.Lock()
	l.in.armed = armed
	l.in.mu.Unlock()
}

// Ready implements [drivers.Link].
func (l *link) Ready() bool {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	return len(l.in.frames) > 0 || l.in.end != nil
}

// Sleep implements [drivers.Link].
func (l *link) Sleep(until func() bool) {
	l.sleeping.Lock()
	defer l.sleeping.Unlock()
	if until() {
		return
	}
	q := l.in
	q.mu.Lock()
	defer q.mu.Unlock()
	// A frame that came since until looked has called nobody, unless the link was armed.
	for !q.woken && q.end == nil && !(q.armed && len(q.frames) > 0) {
		q.change.Wait()
	}
	q.woken = false
}

// Wake implements [drivers.Link].
func (l *link) Wake() {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.in.woken = true
	l.in.change.Broadcast()
}

// Peer implements [drivers.Link].
func (l *link) Peer() drivers.Hello { return l.out.owner }

// PeerCredentials implements [drivers.Identifier]: the peer is this process.
func (l *link) PeerCredentials() drivers.Credentials {
	return drivers.Credentials{UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid()}
}

// Shutdown implements [drivers.Link].
func (l *link) Shutdown() {
	l.in.finish(ipc.ErrDisconnected)
	l.out.finish(ipc.ErrPeerGone)
}

// Close implements [drivers.Link].
func (l *link) Close() error {
	l.Shutdown()
	l.sleeping.Lock() // so that no Sleep runs
	defer l.sleeping.Unlock()
	return nil
}
