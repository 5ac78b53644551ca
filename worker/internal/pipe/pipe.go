// Package pipe is a link inside of one process.
package pipe

import (
	"context"
	"os"
	"runtime"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Driver is the name of the links' driver.
const Driver = "local"

// room is how many bytes of frames may wait for their reader, where there is more than one of
// them.
const room = 1 << 20

const (
	// maxSpins is how often a reader that finds nothing lets others run before it sleeps: to be woken takes longer.
	maxSpins = 2
	// keptFrames is for how many frames the memory of an empty queue is kept.
	keptFrames = 64
)

// New returns the two ends of a link. The fields of a hello that say who has sent it are set.
func New(a, b drivers.Hello) (ofA, ofB drivers.Link) {
	toA, toB, spare := newQueue(a), newQueue(b), new(spare)
	return &link{in: toA, out: toB, spare: spare}, &link{in: toB, out: toA, spare: spare}
}

// queue is one direction of a link.
type queue struct {
	owner drivers.Hello // who reads it

	mu     sync.Mutex
	change *sync.Cond
	frames []drivers.Frame // from head on
	head   int
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

// spare is memory for payloads of both directions.
type spare struct {
	mu   sync.Mutex
	list [8][]byte
	next int // which is replaced when there is no place
}

// Smaller memory is quickly made anew, and larger is not kept.
const (
	minSpare = 1 << 10
	maxSpare = 1 << 20
)

// take returns an empty slice for n bytes.
func (s *spare) take(n int) []byte {
	if n < minSpare {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range s.list {
		if cap(b) >= n && cap(b)/4 <= n { // a receiver that keeps it is not to keep much more
			s.list[i] = nil
			return b[:0]
		}
	}
	return nil
}

// give takes memory that nobody uses any more.
func (s *spare) give(b []byte) {
	if cap(b) < minSpare || cap(b) > maxSpare {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.list {
		if s.list[i] == nil {
			s.list[i] = b
			return
		}
	}
	s.list[s.next] = b
	s.next = (s.next + 1) % len(s.list)
}

// link is one end.
type link struct {
	in, out *queue
	spare   *spare
	spins   int // since a frame came; of the reader

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
	f := drivers.Frame{
		Kind: sent.Kind, Owned: true, Tx: sent.Tx, Method: sent.Method, Remaining: sent.Remaining, Meta: sent.Meta,
		Payload: append(l.spare.take(len(sent.Payload)), sent.Payload...),
	}
	if len(sent.Handles) > 0 {
		f.Handles = append([]byte(nil), sent.Handles...)
	}
	q := l.out
	q.mu.Lock()
	for q.end == nil && len(q.frames) > q.head && q.bytes+size > room {
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
	if q.end != nil {
		q.mu.Unlock() // the other end takes the two locks the other way round
		return l.why()
	}
	defer q.mu.Unlock()
	if q.head > len(q.frames)/2 && len(q.frames) == cap(q.frames) { // a queue that is never empty does not grow by what has left it
		n := copy(q.frames, q.frames[q.head:])
		clear(q.frames[n:])
		q.frames, q.head = q.frames[:n], 0
	}
	q.frames = append(q.frames, f)
	q.bytes += size
	if q.armed {
		q.change.Broadcast()
	}
	return nil
}

// why returns why nothing can be sent any more, as this side sees it.
func (l *link) why() error {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.in.end == nil { // the peer has ended its own side just now, and will end this one
		return ipc.ErrPeerGone
	}
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
	if len(q.frames) == q.head {
		return false, q.end
	}
	l.spins = 0
	*f = q.frames[q.head]
	q.frames[q.head] = drivers.Frame{}
	q.head++
	f.More = len(q.frames) > q.head
	if !f.More {
		if q.frames, q.head = q.frames[:0], 0; cap(q.frames) > keptFrames {
			q.frames = nil
		}
	}
	if q.bytes -= cost(f); q.bytes <= room/2 {
		q.giveRoom()
	}
	return true, nil
}

// Hold implements [drivers.Link]. Payloads are owned, so there is nothing to hold.
func (l *link) Hold() func() { return func() {} }

// Recycle implements [drivers.Link].
func (l *link) Recycle(b []byte) { l.spare.give(b) }

// Spin implements [drivers.Link].
// The other side runs in this process, so what it takes is a processor.
func (l *link) Spin() bool {
	if l.spins++; l.spins > maxSpins {
		l.spins = 0
		return false
	}
	runtime.Gosched()
	return true
}

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
	return len(l.in.frames) > l.in.head || l.in.end != nil
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
	for !q.woken && q.end == nil && !(q.armed && len(q.frames) > q.head) {
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
