package socket

import (
	"context"
	"fmt"
	"time"

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

	// batch are whole frames that wait for another one, or a Flush.
	batch []byte

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
	w.scratch = make([]byte, 0, prefixSize+ipc.MaxHeader+smallPayload+1)
	w.flush = func(uintptr) bool { return l.write() != errAgain }
}

func (w *writer) left() int { return len(w.parts[0]) + len(w.parts[1]) + len(w.parts[2]) }

// Send sends one frame. If ctx ends while a part of the frame has been written
// already, the next Send makes the peer drop that part.
func (l *link) Send(ctx context.Context, f ipc.Frame) error {
	w := &l.writer
	if size := len(f.Payload); size > l.limit-ipc.MaxHeader { // the header is not known yet
		var header [ipc.MaxHeader]byte
		if size += len(f.AppendHeader(header[:0])); size > l.limit {
			return &ipc.SizeError{Size: size, Limit: l.limit}
		}
	}
	if !w.lock.Lock(ctx, l.done) {
		return l.gaveUp(ctx)
	}
	defer w.lock.Unlock()
	if l.end.Load() != nil {
		return l.gaveUp(ctx)
	}
	for w.debt > 0 {
		n := min(w.debt, len(zeros))
		w.parts = [3][]byte{zeros[:n]}
		err := l.writeAll(ctx)
		w.debt -= n - w.left()
		if err != nil {
			return err
		}
	}
	small := len(f.Payload) <= smallPayload
	if small && (f.More || len(w.batch) > 0) {
		return l.sendBatched(ctx, &f)
	}
	if err := l.writeBatch(ctx); err != nil {
		return err
	}
	head := append(w.scratch[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	head = f.AppendHeader(head)
	size := len(head) - prefixSize + len(f.Payload)
	appendPrefix(head[:0], size, f.Tag())
	end := goodEnd[:endSize(size)]
	if small {
		w.parts = [3][]byte{append(append(head, f.Payload...), end...)}
	} else {
		w.parts = [3][]byte{head, f.Payload, end}
	}
	err := l.writeAll(ctx)
	if left := w.left(); err != nil && left < wireSize(size) {
		if len(end) == 0 {
			// No system is known to do this. The peer cannot be told to drop it.
			return l.finish(fmt.Errorf("%w: the system has cut a frame of %d bytes", ipc.ErrDisconnected, size))
		}
		w.debt = left
	}
	w.parts = [3][]byte{} // the payload is the caller's again
	return err
}

// maxBatch is how many bytes of frames are gathered before they are written.
const maxBatch = 64 << 10

// sendBatched adds a small frame to the batch, and writes that unless more follows.
func (l *link) sendBatched(ctx context.Context, f *ipc.Frame) error {
	w := &l.writer
	begin := len(w.batch)
	b := append(w.batch, 0, 0, 0, 0, 0, 0, 0, 0)
	b = f.AppendHeader(b)
	size := len(b) - begin - prefixSize + len(f.Payload)
	appendPrefix(b[:begin], size, f.Tag())
	b = append(b, f.Payload...)
	w.batch = append(b, goodEnd[:endSize(size)]...)
	if f.More && len(w.batch) < maxBatch {
		return nil
	}
	own := len(w.batch) - begin
	err := l.writeBatch(ctx)
	switch {
	case err == nil || l.end.Load() != nil:
		return err
	case len(w.batch) >= own: // it has not begun to leave
		w.batch = w.batch[:len(w.batch)-own]
		return err
	}
	// It cannot be taken back, so it is sent.
	go func() { _ = l.Flush(context.Background()) }() // ends with the link
	return nil
}

// writeBatch writes the frames that were gathered. What ctx did not leave time for
// is kept, since whoever sent it was told that it will be.
func (l *link) writeBatch(ctx context.Context) error {
	w := &l.writer
	if len(w.batch) == 0 {
		return nil
	}
	w.parts = [3][]byte{w.batch}
	err := l.writeAll(ctx)
	w.batch = w.batch[:copy(w.batch, w.parts[0])]
	w.parts = [3][]byte{}
	return err
}

// Flush writes what was sent with More and is still here.
func (l *link) Flush(ctx context.Context) error {
	if !l.writer.lock.Lock(ctx, l.done) {
		return l.gaveUp(ctx)
	}
	defer l.writer.lock.Unlock()
	if l.end.Load() != nil {
		return l.gaveUp(ctx)
	}
	return l.writeBatch(ctx)
}

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
	for w.left() > 0 {
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
			w.err = err
			return err
		}
		for i := range w.parts {
			done := min(n, len(w.parts[i]))
			w.parts[i] = w.parts[i][done:]
			n -= done
		}
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
