package shm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// After the handshake the control socket carries records of 16 bytes, all numbers little-endian,
// each written at once and with at most one descriptor:
//
//	 0        4        8               16
//	+--------+--------+----------------+
//	| kind   | index  | size           |
//	+--------+--------+----------------+
//
// What a frame in the ring names is on the control socket before the frame is in the ring.
// So a reader that misses it reads the socket up to its present end, and needs not wait.
const (
	controlRecord = 16

	controlRegion      = 1 // a memory of buffers: its index, size and descriptor
	controlRegionGone  = 2 // no frame names the region any more
	controlFile        = 3 // a file, with a sequence number for its index
	controlFileDropped = 4 // no frame will name the file
	controlAcks        = 5 // the memory in which the sender says which buffers it has released
	controlRegionLost  = 6 // the sender was short of something, and wants to be passed the region again
	controlReleased    = 7 // a place whose buffer was released, and of which use, while there are no acks
	controlAcksLost    = 8 // the sender was short of something, and has no acks
)

// maxWaitingFiles is how many files may wait for the frames that name them. While there are
// more on the control socket they stay there, and their sender waits for room at last. A frame
// takes no more than a quarter of them, so the next one always finds its own.
const maxWaitingFiles = 4 * ipc.MaxFiles

// controlWriter is the sending half of the control socket.
type controlWriter struct {
	lock sendlock.Lock

	// dropped are files whose frames were not sent. Their records come first.
	mu       sync.Mutex
	dropped  []uint32
	dropping bool // sendDrops runs
}

// controlReader is the receiving half of the control socket.
type controlReader struct {
	raw syscall.RawConn

	// mu guards the following. Its holder does not block.
	mu     sync.Mutex
	record [controlRecord]byte
	got    int        // bytes of the record
	with   []*os.File // came with them
	lost   bool       // one more came, for which there was no descriptor
	files  waitingFiles
	full   bool // there are as many files as may be, and perhaps more to read
	closed bool
}

// initControl makes the control socket ready for records.
func (l *link) initControl() error {
	l.out.lock.Init()
	l.in.files.held = &l.held
	raw, err := l.control.SyscallConn()
	if err != nil {
		return fmt.Errorf("tandem: shm: %w", err)
	}
	l.in.raw = raw
	return nil
}

// sendControl sends one record, with f if that is not nil, which stays the caller's. It blocks
// while there is no room, until ctx or the link ends. If it fails nothing was sent.
func (l *link) sendControl(ctx context.Context, kind, index uint32, size uint64, f *os.File) error {
	w := &l.out
	if !w.lock.Lock(ctx, l.gone) {
		return l.whyNot(ctx)
	}
	defer w.lock.Unlock()
	if err := l.writeDrops(ctx); err != nil {
		return err
	}
	return l.writeControl(ctx, kind, index, size, f)
}

// writeControl writes one record. The caller holds the lock.
func (l *link) writeControl(ctx context.Context, kind, index uint32, size uint64, f *os.File) error {
	if end := l.end.Load(); end != nil {
		return *end
	}
	var b [controlRecord]byte
	binary.LittleEndian.PutUint32(b[:], kind)
	binary.LittleEndian.PutUint32(b[4:], index)
	binary.LittleEndian.PutUint64(b[8:], size)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = l.control.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err := fdpass.Pass(l.control, b[:], f)
	if !stop() {
		<-stopped
		_ = l.control.SetWriteDeadline(time.Time{})
	}
	switch end := l.end.Load(); {
	case err == nil && n == len(b):
		return nil
	case end != nil:
		return *end
	case n > 0:
		err = fmt.Errorf("%w: shm: the system has cut a record of the control socket", ipc.ErrDisconnected)
		l.finish(err)
		return err
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return ctx.Err()
	case process.HungUp(err):
		l.finish(ipc.ErrPeerGone)
		return *l.end.Load()
	}
	return &drivers.AttachError{Err: process.Shortage(err)}
}

// dropFiles tells the peer that no frame will name files that were sent to it. It does not block.
func (l *link) dropFiles(indexes []uint32) {
	w := &l.out
	if len(indexes) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped = append(w.dropped, indexes...)
	if !w.dropping {
		w.dropping = true
		go l.sendDrops()
	}
}

// sendDrops sends the records of dropped files, unless another sender has been quicker.
func (l *link) sendDrops() {
	w := &l.out
	if w.lock.Lock(context.Background(), l.gone) {
		defer w.lock.Unlock()
		_ = l.writeDrops(context.Background()) // which fails if the link has ended
	}
}

// writeDrops writes the records of dropped files. The caller holds the lock.
func (l *link) writeDrops(ctx context.Context) error {
	w := &l.out
	for {
		w.mu.Lock()
		if len(w.dropped) == 0 {
			w.dropping = false
			w.mu.Unlock()
			return nil
		}
		index := w.dropped[0]
		w.mu.Unlock()
		if err := l.writeControl(ctx, controlFileDropped, index, 0, nil); err != nil {
			return err
		}
		w.mu.Lock()
		w.dropped = w.dropped[1:]
		w.mu.Unlock()
	}
}

// watch reads the control socket, and notices its end, which is the end of the peer.
func (l *link) watch() {
	l.watching.Go(func() {
		_ = l.in.raw.Read(func(fd uintptr) (done bool) {
			for more := true; more && l.end.Load() == nil; { // others need the lock meanwhile
				l.in.mu.Lock()
				more = l.readControl(fd, nil)
				done = l.in.full && fdpass.HungUp(fd)
				l.in.mu.Unlock()
			}
			return done || l.end.Load() != nil
		})
		l.finish(ipc.ErrPeerGone)
		if errors.Is(*l.end.Load(), ipc.ErrPeerGone) {
			l.exports.close() // what it had is free now, though nobody may close the link for long
		}
	})
}

// catchUp reads the control socket until done reports true, or there is no more. done is called
// with the lock of the reader, which the caller holds.
func (l *link) catchUp(done func() bool) {
	_ = l.in.raw.Control(func(fd uintptr) { l.readControl(fd, done) })
}

// maxReads is more than what a socket holds takes. So a peer that writes records without end keeps no
// reader for ever, and that has seen all that were there when it began.
const maxReads = 1 << 17

// readControl reads records for as long as there are some, there is room for files, and done, if it is
// not nil, reports false. It returns true after maxReads. The caller holds the lock
// of the reader.
func (l *link) readControl(fd uintptr, done func() bool) (more bool) {
	in := &l.in
	for reads := 0; !in.closed && (done == nil || !done()); reads++ {
		if reads == maxReads {
			return true
		}
		if in.full = in.files.full(); in.full {
			return false
		}
		n, files, lost, err := fdpass.Receive(fd, in.record[in.got:], 1)
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		in.got += n
		in.with = append(in.with, files...)
		in.lost = in.lost || lost
		switch {
		case err == nil && len(in.with) > 1:
			err = fmt.Errorf("%w: shm: %d descriptors with one record on the control socket", ipc.ErrProtocol, len(in.with))
		case err == nil && in.got == controlRecord:
			err = l.takeRecord()
		case errors.Is(err, io.EOF), err != nil && process.HungUp(err):
			err = ipc.ErrPeerGone
		case err != nil:
			err = fmt.Errorf("%w: shm: control socket: %w", ipc.ErrPeerGone, process.Shortage(err))
		}
		if err != nil {
			l.discard(in.with)
			in.with = nil
			l.finish(err)
			return false
		}
	}
	return false
}

// takeRecord acts on the record that is complete.
func (l *link) takeRecord() error {
	in := &l.in
	kind, index := binary.LittleEndian.Uint32(in.record[:]), binary.LittleEndian.Uint32(in.record[4:])
	size := binary.LittleEndian.Uint64(in.record[8:])
	var f *os.File
	if len(in.with) > 0 {
		f = in.with[0]
	}
	lost := in.lost
	needs := kind == controlRegion || kind == controlFile || kind == controlAcks
	if needs != (f != nil || lost) {
		return fmt.Errorf("%w: shm: record of kind %d on the control socket, with a descriptor: %t", ipc.ErrProtocol, kind, f != nil)
	}
	in.got, in.with, in.lost = 0, nil, false
	var missing error // why there is no f
	if needs && f == nil {
		missing = &drivers.AttachError{Err: process.Shortage(os.NewSyscallError("recvmsg", syscall.EMFILE))}
	}
	switch kind {
	case controlRegion:
		return l.onRegion(index, size, f, missing)
	case controlRegionGone:
		return l.onDrop(index)
	case controlAcks:
		return l.onAcks(f, missing)
	case controlRegionLost:
		return l.onLost(index)
	case controlAcksLost:
		return l.bounded(l.imports.acksLost())
	case controlReleased:
		return l.onReleased(index, size)
	case controlFile:
		return in.files.add(index, size, f, missing)
	case controlFileDropped:
		return in.files.drop(index)
	}
	return fmt.Errorf("%w: shm: record of kind %d on the control socket", ipc.ErrProtocol, kind)
}

// closeControl closes the control socket, which tells the peer. What has come is read before, for
// frames may still be delivered that name it.
func (l *link) closeControl() {
	l.in.mu.Lock()
	l.catchUp(nil)
	l.in.mu.Unlock()
	l.control.Close()
}

// dropControl closes the files that nobody has taken.
func (l *link) dropControl() {
	in := &l.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	l.discard(in.with)
	in.with = nil
	in.files.close()
}

// discard closes files that came before the link has ended, or is about to.
func (l *link) discard(files []*os.File) {
	for _, f := range files {
		l.held.Discard(f)
	}
}
