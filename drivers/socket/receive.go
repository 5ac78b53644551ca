package socket

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

const (
	// minBuffer and maxBuffer bound the read buffer of a link. Frames that do
	// not fit the largest one get memory of their own. It is this large because
	// fresh memory costs more than the socket does: a megabyte to another
	// process and back takes five times as long with an allocation on each side.
	minBuffer = 8 << 10
	maxBuffer = 1<<20 + 4<<10
)

// reader is the receiving half of a link. Only the goroutine that reads the link touches
// it, except for complete.
type reader struct {
	// buf[r:w] has arrived and was not returned yet.
	buf  []byte
	r, w int
	held bool // a caller of Hold keeps a part of buf: nothing in it must change any more

	files drivers.HeldFiles // that have come and are not taken

	// large is a frame that is too large for buf, of which got bytes have
	// arrived; nil between such frames. Its tag is largeTag.
	large      []byte
	got        int
	largeTag   byte
	largeFiles int // that it has

	// parcels are the files that have come, for frames that were not returned yet. oob is where the
	// system writes what they are.
	parcels []parcel
	oob     []byte

	// err is why Next failed. It fails so ever after.
	err error

	// complete says whether Next would return something without the socket.
	complete atomic.Bool

	// detached: the host has detached, and the worker is to stay.
	detached atomic.Bool

	spin spinner

	// small counts the frames in a row that keepBuffer would have held.
	small int
}

const (
	// keepBuffer is the buffer that a link keeps for ever; a larger one goes
	// after keepFor frames that did not need it.
	keepBuffer = 64 << 10
	keepFor    = 256
)

// Next makes f the next frame.
func (l *link) Next(f *drivers.Frame) (ok bool, err error) {
	rd := &l.reader
	if rd.err != nil {
		return false, rd.err
	}
	if l.closed.Load() {
		return false, ipc.ErrDisconnected
	}
	for {
		var dropped bool
		ok, dropped, err = rd.take(f, l.limit)
		if ok || dropped {
			// After an abandoned one, too, Next returns: a peer that sends
			// nothing else must not keep its caller here.
			f.More = rd.holdsFrame(l.limit)
			rd.setComplete(f.More)
			rd.spin.found()
			return ok, nil
		}
		if err != nil {
			return false, l.stop(l.finish(err))
		}
		shut := l.shut.Load()
		err := l.fill()
		if err == errAgain {
			switch end := l.end.Load(); {
			case end == nil:
			case shut:
				return false, l.stop(*end)
			default:
				// The peer may have sent something since the look, and until the
				// connection is shut, which happens right now.
				runtime.Gosched()
				continue
			}
			rd.setComplete(false)
			return false, nil
		}
		if err != nil {
			return false, l.stop(l.failed(err, rd.where()))
		}
	}
}

// Hold keeps the last payload: the link goes on behind it in the same buffer, and then
// with another one.
func (l *link) Hold() func() {
	l.reader.held = true
	return func() {}
}

// Recycle does nothing: a link has one buffer, which suffices for most frames.
func (l *link) Recycle([]byte) {}

// stop makes err what Next returns from now on, and lets go of the buffers.
func (l *link) stop(err error) error {
	l.reader.err = err
	l.reader.buf, l.reader.large = nil, nil
	l.reader.closeParcels()
	l.reader.setComplete(true)
	return err
}

// fill reads once from the socket.
func (l *link) fill() error {
	rd := &l.reader
	dst := rd.room(l.limit)
	l.fdMu.RLock()
	if l.closed.Load() {
		l.fdMu.RUnlock()
		return l.finish(ipc.ErrDisconnected)
	}
	n, oobn, flags, err := recv(l.fd, dst, rd.oob)
	l.fdMu.RUnlock()
	if err != nil {
		return err
	}
	if oobn > 0 || flags != 0 {
		if err := rd.received(rd.oob[:oobn], flags); err != nil {
			return l.finish(err)
		}
	}
	if rd.large != nil {
		rd.got += n
	} else {
		rd.w += n
	}
	return nil
}

// take makes f the next frame if all of that is here. dropped is true if what was here
// is a frame that its sender has abandoned.
func (rd *reader) take(f *drivers.Frame, limit int) (ok, dropped bool, err error) {
	if rd.large == nil {
		if rd.w-rd.r < prefixSize {
			return false, false, nil
		}
		size, files, tag, err := parsePrefix(rd.buf[rd.r:rd.w], limit)
		if err != nil {
			return false, false, err
		}
		body := rd.buf[rd.r+prefixSize : rd.w]
		need := size + endSize(size)
		if prefixSize+need <= maxBuffer {
			if len(body) < need {
				return false, false, nil
			}
			rd.r += prefixSize + need
			if rd.small++; prefixSize+need > keepBuffer {
				rd.small = 0
			}
			if ok, err = parseFrame(f, tag, body, size); err != nil && drivers.Kind(tag) == kindDetach && size == 8 {
				rd.detached.Store(true)
				return false, true, nil
			}
			if err == nil && (files > 0 || ok && f.Handles != nil) {
				err = rd.detach(f, files, ok)
				ok = ok && err == nil
			}
			return ok, !ok && err == nil, err
		}
		// One exact allocation of what was agreed on; the rest of the frame is
		// read right into it.
		rd.large, rd.largeTag, rd.largeFiles = make([]byte, need), tag, files
		rd.got = copy(rd.large, body)
		rd.r += prefixSize + rd.got
	}
	if rd.got < len(rd.large) {
		return false, false, nil
	}
	ok, err = parseFrame(f, rd.largeTag, rd.large, len(rd.large)-1)
	f.Owned = true // nobody else knows of this memory
	rd.large, rd.got = nil, 0
	if err == nil && (rd.largeFiles > 0 || ok && f.Handles != nil) {
		err = rd.detach(f, rd.largeFiles, ok)
		ok = ok && err == nil
	}
	return ok, !ok && err == nil, err
}

// holdsFrame reports whether take would return a frame or an error.
func (rd *reader) holdsFrame(limit int) bool {
	if rd.w-rd.r < prefixSize {
		return false
	}
	size, _, _, err := parsePrefix(rd.buf[rd.r:rd.w], limit)
	return err != nil || rd.w-rd.r >= wireSize(size)
}

// room returns where to read to. What earlier frames have left in front of it
// is overwritten, which is why a payload lives until the following Next.
func (rd *reader) room(limit int) []byte {
	if rd.large != nil {
		return rd.large[rd.got:]
	}
	need := minBuffer
	if rd.w-rd.r >= prefixSize {
		if size, _, _, err := parsePrefix(rd.buf[rd.r:rd.w], limit); err == nil {
			need = max(need, wireSize(size)) // at most maxBuffer, or it would be large
		}
	}
	switch {
	case rd.held && rd.r+need <= len(rd.buf) && rd.w < len(rd.buf): // there is more of it
	case rd.held:
		fresh := make([]byte, need)
		rd.w = copy(fresh, rd.buf[rd.r:rd.w])
		rd.buf, rd.r, rd.held = fresh, 0, false
	case rd.r == rd.w:
		rd.r, rd.w = 0, 0
		if len(rd.buf) > keepBuffer && rd.small >= keepFor {
			rd.buf = nil
		}
	case len(rd.buf)-rd.r < need || rd.w == len(rd.buf):
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	}
	if len(rd.buf) < need {
		most := maxBuffer
		if need <= keepBuffer {
			most = keepBuffer // as a larger one would be let go
		}
		grown := make([]byte, min(max(2*len(rd.buf), 2*need, minBuffer), most))
		copy(grown, rd.buf[:rd.w])
		rd.buf = grown
	}
	return rd.buf[rd.w:]
}

// where says where the stream has ended, for errors.
func (rd *reader) where() string {
	switch {
	case rd.large != nil:
		return fmt.Sprintf(" after %d of %d bytes of a frame", rd.got, len(rd.large)-1)
	case rd.w > rd.r:
		return fmt.Sprintf(" in the middle of a frame, %d bytes into it", rd.w-rd.r)
	}
	return ""
}

func (rd *reader) setComplete(v bool) {
	if rd.complete.Load() != v {
		rd.complete.Store(v)
	}
}
