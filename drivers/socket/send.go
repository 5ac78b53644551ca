package socket

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
)

// smallPayload is what is copied behind its header, so that one write from one
// buffer sends both. Copying more costs more than a second address to the
// system does.
const smallPayload = 4 << 10

// writer is the sending half of a link. All but lock belongs to who holds it.
type writer struct {
	lock    sendlock.Lock
	scratch []byte // prefix, header and small payloads

	// debt is how much is missing of a frame whose sender gave up halfway. The
	// next sender fills it with zeros, and the end byte that comes out as
	// endGivenUp makes the receiver drop the frame.
	debt int

	// rest is the rest of a frame that counts as sent.
	rest []byte
	// left are frames of others that came while the lock was held: whoever holds it,
	// or unlocks it, writes them.
	leftMu  sync.Mutex
	left    []byte
	hasLeft atomic.Bool
	stalled atomic.Bool // there was no room at last, so others must wait, too
	resting atomic.Bool // sendRest runs
	alone   bool        // nothing is left to others: what is sent is with the system

	// batch is memory for frames that are sent together, and ends are their ends.
	batch []byte
	ends  []int

	// parts are what is still to be written. err is how writing them ended.
	parts [3][]byte
	err   error
	flush func(uintptr) bool // made once
}

var (
	goodEnd = []byte{endGood}
	zeros   [64 << 10]byte
)

func (w *writer) init(l *link) {
	w.lock.Init()
	w.scratch = make([]byte, 0, prefixSize+drivers.MaxHeader+smallPayload+1)
	w.flush = func(uintptr) bool { return l.write() != errAgain }
}

func (w *writer) unwritten() int { return len(w.parts[0]) + len(w.parts[1]) + len(w.parts[2]) }

// Send sends one frame. If ctx ends while a part of the frame has been written
// already, the next Send makes the peer drop that part.
func (l *link) Send(ctx context.Context, f drivers.Frame) error {
	w := &l.writer
	if err := l.fits(&f); err != nil {
		return err
	}
	if !w.lock.TryLock() {
		if l.leave(&f) {
			return nil
		}
		if !w.lock.Lock(ctx, l.done) {
			return l.gaveUp(ctx)
		}
	}
	defer l.unlock()
	if l.end.Load() != nil {
		return l.gaveUp(ctx)
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	head := append(w.scratch[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	head = f.AppendHeader(head)
	size := len(head) - prefixSize + len(f.Payload)
	appendPrefix(head[:0], size, f.Tag())
	end := goodEnd[:endSize(size)]
	if len(f.Payload) <= smallPayload {
		w.parts = [3][]byte{append(append(head, f.Payload...), end...)}
	} else {
		w.parts = [3][]byte{head, f.Payload, end}
	}
	err := l.writeAll(ctx)
	if left := w.unwritten(); err != nil && left < wireSize(size) {
		if len(end) == 0 {
			// No system is known to do this. The peer cannot be told to drop it.
			return l.finish(fmt.Errorf("%w: the system has cut a frame of %d bytes", ipc.ErrDisconnected, size))
		}
		w.debt = left
	}
	w.parts = [3][]byte{} // the payload is the caller's again
	return err
}

// fits returns an error if f is larger than was agreed on.
func (l *link) fits(f *drivers.Frame) error {
	if size := len(f.Payload); size > l.limit-drivers.MaxHeader { // the header is not known yet
		var header [drivers.MaxHeader]byte
		if size += len(f.AppendHeader(header[:0])); size > l.limit {
			return &ipc.SizeError{Size: size, Limit: l.limit}
		}
	}
	return nil
}

// leave leaves a small frame to whoever is writing just now, so that one write sends
// all that comes meanwhile. It returns false if that is not possible.
func (l *link) leave(f *drivers.Frame) bool {
	w := &l.writer
	if len(f.Payload) > smallPayload || w.alone || w.stalled.Load() || l.end.Load() != nil {
		return false
	}
	if f.Kind > drivers.KindCancel {
		return false // the link may end right after it
	}
	w.leftMu.Lock()
	if len(w.left) > maxBatch {
		w.leftMu.Unlock()
		return false
	}
	w.left = appendFrame(w.left, f)
	w.hasLeft.Store(true)
	w.leftMu.Unlock()
	// SYNC: pairs with link.unlock, which unlocks and then loads hasLeft.
	if w.lock.TryLock() {
		l.unlock()
	}
	return true
}

// takeLeft adds what was left to rest.
func (w *writer) takeLeft() {
	if !w.hasLeft.Load() {
		return
	}
	w.leftMu.Lock()
	w.hasLeft.Store(false)
	w.rest = append(w.rest, w.left...)
	w.left = w.left[:0]
	w.leftMu.Unlock()
}

// maxRounds is how often a sender writes what others have left. They may never cease.
const maxRounds = 4

// unlock gives the lock back, and sees to what others have left: nobody else may.
func (l *link) unlock() {
	w := &l.writer
	for round := 0; ; round++ {
		if (w.hasLeft.Load() || len(w.rest) > 0) && l.end.Load() == nil {
			if round == maxRounds || w.debt > 0 || l.writeLeft() == errAgain {
				if !w.resting.Swap(true) {
					go l.sendRest()
				}
				w.lock.Unlock()
				return
			}
		}
		w.lock.Unlock()
		if !w.hasLeft.Load() || l.end.Load() != nil || !w.lock.TryLock() {
			return
		}
	}
}

// writeLeft writes what was left, as far as there is room.
func (l *link) writeLeft() error {
	w := &l.writer
	w.takeLeft()
	w.parts = [3][]byte{w.rest}
	err := l.write()
	w.rest = w.rest[:copy(w.rest, w.parts[0])]
	w.parts = [3][]byte{}
	return err
}

// settle writes what earlier senders owe.
func (l *link) settle(ctx context.Context) error {
	w := &l.writer
	w.takeLeft()
	for w.debt > 0 {
		n := min(w.debt, len(zeros))
		w.parts = [3][]byte{zeros[:n]}
		err := l.writeAll(ctx)
		w.debt -= n - w.unwritten()
		if err != nil {
			return err
		}
	}
	if len(w.rest) == 0 {
		return nil
	}
	w.parts = [3][]byte{w.rest}
	err := l.writeAll(ctx)
	w.rest = w.rest[:copy(w.rest, w.parts[0])]
	w.parts = [3][]byte{}
	return err
}

// maxBatch is how many bytes of frames are written at once.
const maxBatch = 64 << 10

// SendBatch sends frames with as few writes as can be.
func (l *link) SendBatch(ctx context.Context, frames []drivers.Frame) (n int, err error) {
	for n < len(frames) {
		if len(frames[n].Payload) > smallPayload {
			err = l.Send(ctx, frames[n])
			if err == nil {
				n++
			}
		} else {
			var sent int
			sent, err = l.sendSmall(ctx, frames[n:])
			n += sent
		}
		if err != nil {
			break
		}
	}
	return n, err
}

// appendFrame appends a frame as it is on the wire.
func appendFrame(b []byte, f *drivers.Frame) []byte {
	begin := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = f.AppendHeader(b)
	size := len(b) - begin - prefixSize + len(f.Payload)
	appendPrefix(b[:begin], size, f.Tag())
	b = append(b, f.Payload...)
	return append(b, goodEnd[:endSize(size)]...)
}

// sendSmall sends the first frames up to one that is not small, up to maxBatch bytes.
func (l *link) sendSmall(ctx context.Context, frames []drivers.Frame) (int, error) {
	w := &l.writer
	if !w.lock.Lock(ctx, l.done) {
		return 0, l.gaveUp(ctx)
	}
	defer l.unlock()
	if l.end.Load() != nil {
		return 0, l.gaveUp(ctx)
	}
	if err := l.settle(ctx); err != nil {
		return 0, err
	}
	b, ends := w.batch[:0], w.ends[:0]
	for i := range frames {
		f := &frames[i]
		if len(f.Payload) > smallPayload || len(b) > maxBatch-drivers.MaxHeader-smallPayload {
			break
		}
		if err := l.fits(f); err != nil {
			if i == 0 {
				return 0, err
			}
			break
		}
		b = appendFrame(b, f)
		ends = append(ends, len(b))
	}
	w.batch, w.ends = b, ends
	w.parts = [3][]byte{b}
	err := l.writeAll(ctx)
	written := len(b) - w.unwritten()
	w.parts = [3][]byte{}
	if err == nil || l.end.Load() != nil {
		return len(ends), err
	}
	n, begin := 0, 0
	for n < len(ends) && ends[n] <= written {
		begin = ends[n]
		n++
	}
	if written > begin {
		// This one was cut and cannot be taken back, so its rest goes first.
		w.rest = append(w.rest, b[written:ends[n]]...)
		n++
	}
	return n, err
}

// sendRest sends what counts as sent and is not, if no other sender does. It ends with
// the link.
func (l *link) sendRest() {
	if l.writer.lock.Lock(context.Background(), l.done) {
		_ = l.settle(context.Background())
		l.writer.resting.Store(false)
		l.unlock()
	}
}

// flush waits until what counts as sent was written, if there is room for it.
func (l *link) flush() {
	for begin := time.Now(); !l.writer.lock.TryLock(); runtime.Gosched() {
		if l.writer.stalled.Load() || l.end.Load() != nil || time.Since(begin) > maxFlush {
			return
		}
	}
	l.unlock()
}

// maxFlush is far longer than a sender that does not wait for room has the lock.
const maxFlush = 100 * time.Millisecond

// gaveUp says why a Send did not get its turn.
func (l *link) gaveUp(ctx context.Context) error {
	if end := l.end.Load(); end != nil {
		return *end
	}
	return ctx.Err()
}

// writeAll writes the parts.
func (l *link) writeAll(ctx context.Context) error {
	err := l.write()
	if err == errAgain {
		err = l.writeSlowly(ctx)
	}
	return err
}

// write writes what there is room for. It returns nil if that was all, and
// errAgain if not.
func (l *link) write() error {
	w := &l.writer
	for w.unwritten() > 0 {
		l.fdMu.RLock()
		if l.closed.Load() {
			l.fdMu.RUnlock()
			w.err = l.finish(ipc.ErrDisconnected)
			return w.err
		}
		n, err := send(l.fd, &w.parts)
		l.fdMu.RUnlock()
		if err != nil {
			if err != errAgain {
				err = l.failed(err, "")
			}
			w.stalled.Store(true)
			w.err = err
			return err
		}
		for i := range w.parts {
			done := min(n, len(w.parts[i]))
			w.parts[i] = w.parts[i][done:]
			n -= done
		}
	}
	if w.stalled.Load() {
		w.stalled.Store(false)
	}
	w.err = nil
	return nil
}

// writeSlowly writes on whenever there is room, until all is written, ctx ends
// or the link does.
func (l *link) writeSlowly(ctx context.Context) error {
	w := &l.writer
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = l.conn.SetWriteDeadline(past)
	})
	err := l.raw.Write(w.flush)
	if !stop() {
		<-stopped
		_ = l.conn.SetWriteDeadline(time.Time{})
		if l.end.Load() != nil {
			_ = l.conn.SetWriteDeadline(past) // which the reset may have undone
		}
	}
	switch {
	case err == nil:
		return w.err
	case l.end.Load() != nil:
		return *l.end.Load()
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return l.finish(err)
}
