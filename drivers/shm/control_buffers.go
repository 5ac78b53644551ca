package shm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// initBuffers makes the link ready for buffers.
func (l *link) initBuffers() {
	l.exports.lock.Init()
	l.exports.gone, l.exports.peer = l.gone, l.peer.PID
	l.exports.pass = func(ctx context.Context, index uint32, size int, f *os.File) error {
		return l.sendControl(ctx, controlRegion, index, uint64(size), f)
	}
	l.exports.forget = func(index uint32) error {
		return l.sendControl(context.Background(), controlRegionGone, index, 0, nil)
	}
	l.imports.discard = l.held.Discard
	l.imports.catchUp = func(done func() bool) {
		l.in.mu.Lock()
		defer l.in.mu.Unlock()
		l.catchUp(done)
	}
	l.imports.sendReleased = func(place uint32, use uint64) bool {
		return l.exports.telling.start(func() {
			_ = l.sendControl(context.Background(), controlReleased, place, use, nil) // or the link has ended
		})
	}
	l.imports.sendLost = func(index uint32) {
		l.exports.telling.start(func() {
			_ = l.sendControl(context.Background(), controlRegionLost, index, 0, nil) // or the link has ended
		})
	}
	l.imports.sendAcks = func(f *os.File) {
		l.exports.telling.start(func() {
			if err := l.sendControl(context.Background(), controlAcks, 0, acksSize, f); err != nil {
				l.finish(err) // or the peer would never know what is released
			}
		})
	}
}

// onRegion takes a region of the peer, or why its descriptor was lost. f is the link's from now on.
// The caller holds the lock of the control socket's reader.
func (l *link) onRegion(index uint32, size uint64, f *os.File, missing error) error {
	return l.imports.add(index, size, f, missing)
}

// onLost takes that the peer could not map a region, and wants to be passed it again. It does not
// block.
func (l *link) onLost(index uint32) error { return l.bounded(l.exports.lost(index)) }

// onDrop takes that a region of the peer has gone. The caller holds the lock of the control
// socket's reader.
func (l *link) onDrop(index uint32) error { return l.imports.drop(index) }

// onAcks takes the memory in which the peer says what it has released. The caller holds the lock of
// the control socket's reader.
func (l *link) onAcks(f *os.File, missing error) error {
	var m *sealed.Memory
	if missing == nil {
		defer l.discard([]*os.File{f})
		var err error
		m, err = sealed.Open(f, acksSize, acksSize)
		if missing = badMemory("the acks", err); errors.Is(missing, ipc.ErrProtocol) {
			return missing
		}
	}
	if missing != nil { // the peer says by records what it has released
		l.exports.records.Store(true)
		return l.bounded(l.exports.telling.start(func() {
			_ = l.sendControl(context.Background(), controlAcksLost, 0, 0, nil) // or the link has ended
		}))
	}
	if !l.exports.acks.CompareAndSwap(nil, m) {
		m.Close()
		return fmt.Errorf("%w: shm: the peer passes its acks twice", ipc.ErrProtocol)
	}
	return nil
}

// closeBuffers lets go of what the peer has, and of what of the peer's nobody has here. The link
// has ended.
func (l *link) closeBuffers() {
	l.exports.close()
	l.imports.close()
	l.exports.telling.wait()
	if acks := l.exports.acks.Swap(nil); acks != nil { // they have come since the link has ended
		acks.Close()
	}
}

// onReleased takes that the peer has released a use of a place, for which it has no acks yet. It does
// not block.
func (l *link) onReleased(place uint32, use uint64) error {
	return l.bounded(l.exports.released(place, use))
}

// bounded is the error of a peer that has sent more records than it has reason to.
func (l *link) bounded(ok bool) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%w: shm: records without end on the control socket", ipc.ErrProtocol)
}

// badMemory is the error of memory of the peer that cannot be mapped: it is not what it has to be, or
// this process is short of something. It is nil if err is.
func badMemory(what string, err error) error {
	var size *sealed.SizeError
	if err == nil {
		return nil
	}
	if errors.Is(err, sealed.ErrSeals) || errors.As(err, &size) {
		return fmt.Errorf("%w: shm: %s of the peer: %w", ipc.ErrProtocol, what, err)
	}
	return process.Shortage(fmt.Errorf("tandem: shm: %s of the peer: %w", what, err))
}
