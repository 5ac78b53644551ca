package socket

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// writeBacklog writes what earlier senders have not: the bytes of an abandoned
// frame, the tail and the combined frames.
func (l *link) writeBacklog(ctx context.Context) error {
	w := &l.writer
	w.takeCombined()
	for w.abandoned > 0 {
		n := min(w.abandoned, len(zeros))
		w.parts = [3][]byte{zeros[:n]}
		err := l.writeAll(ctx)
		w.abandoned -= n - w.unwritten()
		if err != nil {
			return err
		}
	}
	if len(w.tail) == 0 {
		return nil
	}
	w.parts = [3][]byte{w.tail}
	err := l.writeAll(ctx)
	w.tail = w.tail[:copy(w.tail, w.parts[0])]
	w.parts = [3][]byte{}
	return err
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
		n, err := w.send(l.fd)
		l.fdMu.RUnlock()
		if err != nil {
			if _, refused := err.(*drivers.AttachError); refused {
				w.err = err
				return err
			}
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

// send writes what there is room for, and passes the files with it.
func (w *writer) send(fd int) (n int, err error) {
	if w.files == nil {
		return send(fd, &w.parts)
	}
	if n, err = sendFiles(fd, &w.parts, w.files); err == nil {
		w.files = nil
	}
	return n, err
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
