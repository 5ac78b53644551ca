package socket

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
)

// smallPayload is what is copied behind its header, so that one write from one
// buffer sends both. Copying more costs more than a second address to the
// system does.
const smallPayload = 4 << 10

// writer is the sending half of a link. Everything without a lock or an atomic
// type of its own is guarded by lock.
type writer struct {
	lock    sendlock.Lock
	scratch []byte // prefix, header and small payloads

	// abandoned is how many bytes are missing of a frame whose sender gave up
	// halfway. The next sender writes as many zeros, and so an end byte
	// endAbandoned, which makes the receiver drop the frame.
	abandoned int

	// tail is the unsent tail of what counts as sent.
	tail []byte
	// combined are frames that other senders have added while lock was held.
	// The sender that holds lock, or unlocks it, writes them.
	combinedMu  sync.Mutex
	combined    []byte
	hasCombined atomic.Bool
	stalled     atomic.Bool // the last write found no room, so that senders must wait
	sendingTail atomic.Bool // sendTail runs
	noCombine   bool        // Send returns when the system has the whole frame

	// batch is memory for frames that are sent together, and ends are their ends.
	batch []byte
	ends  []int

	// files are to be passed with the first byte of the parts, if there are some.
	files []*os.File
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
func (l *link) Send(ctx context.Context, f *drivers.Frame) error {
	w := &l.writer
	var files []*os.File
	if f.Attached != nil {
		own := f.Handles
		defer func() { f.Handles = own }()
		var err error
		if files, err = attach(f); err != nil {
			return err
		}
	}
	if err := l.fits(f); err != nil {
		return err
	}
	if !w.lock.TryLock() {
		if l.combine(f) {
			return nil
		}
		if !w.lock.Lock(ctx, l.done) {
			return l.notSent(ctx)
		}
	}
	defer l.unlock()
	if l.end.Load() != nil {
		return l.notSent(ctx)
	}
	if err := l.writeBacklog(ctx); err != nil {
		return err
	}
	head := append(w.scratch[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	head = f.AppendHeader(head)
	size := len(head) - prefixSize + len(f.Payload)
	appendPrefix(head[:0], size, len(files), f.Tag())
	end := goodEnd[:endSize(size)]
	if len(f.Payload) <= smallPayload {
		w.parts = [3][]byte{append(append(head, f.Payload...), end...)}
	} else {
		w.parts = [3][]byte{head, f.Payload, end}
	}
	w.files = files
	err := l.writeAll(ctx)
	w.files = nil
	if n := w.unwritten(); err != nil && n < wireSize(size) {
		if len(end) == 0 {
			// No system is known to do this. The peer cannot be told to drop the frame.
			return l.finish(fmt.Errorf("%w: the system has cut a frame of %d bytes", ipc.ErrDisconnected, size))
		}
		w.abandoned = n
	}
	w.parts = [3][]byte{} // the payload is the caller's again
	return err
}

// fits returns an error if f is larger than was agreed on.
func (l *link) fits(f *drivers.Frame) error {
	size := len(f.Payload)
	if f.Meta != nil {
		size += f.Meta.EncodedSize()
	}
	if f.Handles != nil {
		size += len(f.Handles)
	}
	if size > l.limit-drivers.MaxHeader { // the header is not known yet
		var header [drivers.MaxHeader]byte
		if size = len(f.Payload) + len(f.AppendHeader(header[:0])); size > l.limit {
			return &ipc.SizeError{Size: size, Limit: l.limit}
		}
	}
	return nil
}

// maxBatch is how many bytes of frames are written at once.
const maxBatch = 64 << 10

// SendBatch sends frames with as few writes as possible.
func (l *link) SendBatch(ctx context.Context, frames []drivers.Frame) (n int, err error) {
	for n < len(frames) {
		if f := &frames[n]; len(f.Payload) > smallPayload || f.Attached != nil {
			err = l.Send(ctx, &frames[n])
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
	appendPrefix(b[:begin], size, 0, f.Tag())
	b = append(b, f.Payload...)
	return append(b, goodEnd[:endSize(size)]...)
}

// sendSmall sends the first frames up to one that is not small, up to maxBatch bytes.
func (l *link) sendSmall(ctx context.Context, frames []drivers.Frame) (int, error) {
	w := &l.writer
	if !w.lock.Lock(ctx, l.done) {
		return 0, l.notSent(ctx)
	}
	defer l.unlock()
	if l.end.Load() != nil {
		return 0, l.notSent(ctx)
	}
	if err := l.writeBacklog(ctx); err != nil {
		return 0, err
	}
	b, ends := w.batch[:0], w.ends[:0]
	for i := range frames {
		f := &frames[i]
		if len(f.Payload) > smallPayload || f.Attached != nil || len(b) > maxBatch-drivers.MaxHeader-smallPayload {
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
		// The system has a part of this frame, so the tail has to follow first.
		w.tail = append(w.tail, b[written:ends[n]]...)
		n++
	}
	return n, err
}

// notSent returns why a Send did not get the lock.
func (l *link) notSent(ctx context.Context) error {
	if end := l.end.Load(); end != nil {
		return *end
	}
	return ctx.Err()
}
