package ipc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/tandemipc/tandem/ring/broadcast"
)

// topicShared is the memory that a publisher shares with subscribers.
type topicShared struct {
	segment *broadcast.Segment
	// writer is used with f.mu, and to wait for space by who has the turn.
	writer *broadcast.Writer
}

// sharedFile is the number of the file of a request, or a begin.
const sharedFile = 1

// ownSegment maps the segment of a subscriber that wants to read shared memory. It returns nil if the
// subscription has to be a stream, and an error if the subscriber is to blame.
func (f *topicFeed) ownSegment(r topicRequest, st Stream) (*broadcast.Segment, error) {
	shares, ok := st.(MemoryStream)
	if !ok {
		return nil, nil
	}
	a := shares.Attachments()
	defer a.Release()
	if !r.shares || f.streamsOnly || !shares.SharesMemory() {
		return nil, nil
	}
	file, err := onlyFile(a)
	if file == nil || err != nil {
		return nil, err
	}
	own, err := broadcast.OpenReader(file.File())
	if errors.Is(err, broadcast.ErrSeals) || errors.Is(err, broadcast.ErrLayout) {
		return nil, err
	}
	if err != nil {
		return nil, nil // this side is short of something
	}
	return own, nil
}

// onlyFile returns the one file of a message that has one by the protocol; nil if this side was
// short of a descriptor for it.
func onlyFile(a *Attachments) (*File, error) {
	if a == nil || len(a.Files) != 1 || len(a.Buffers) != 0 {
		return nil, fmt.Errorf("%w: a message with other attachments than one file", ErrProtocol)
	}
	if f := &a.Files[0].What; f.File() != nil {
		return f, nil
	}
	return nil, nil
}

func closeSegment(s *broadcast.Segment) {
	if s != nil {
		_ = s.Close() // nobody can do anything about it
	}
}

// joinShared makes s read shared memory, from the next record on, if that is possible. It fails if
// the subscriber is to blame. f.mu is held.
func (f *topicFeed) joinShared(s *topicSub, own *broadcast.Segment, begin *topicBegin) error {
	if f.shared == nil {
		f.shared = f.makeShared()
	}
	if f.shared == nil {
		return nil
	}
	file, err := DuplicateFile(f.shared.segment.File()) // which may go at any time
	if err != nil {
		return nil
	}
	var opts []broadcast.PeerOption
	if s.reliable {
		opts = append(opts, broadcast.Reliable(f.cutOff))
	}
	peer, err := f.shared.writer.Add(own.Bytes(), opts...)
	switch {
	case err == nil:
		s.peer, s.file = peer, file
		begin.shared, begin.position = true, f.shared.writer.Point().Position
		return nil
	case errors.Is(err, broadcast.ErrLayout), errors.Is(err, broadcast.ErrSameReader):
		file.Close()
		return Errorf(CodeInvalidArgument, "subscribe to %q: %w", f.name, err)
	}
	file.Close()
	return nil // with too many others it gets a stream
}

// makeShared makes memory to share, nil if there is none.
func (f *topicFeed) makeShared() *topicShared {
	size := 1 << bits.Len(uint(f.ring.keepBytes-1))
	segment, err := broadcast.Create(size, broadcast.Start(broadcast.Point{Sequence: f.ring.next}))
	if err != nil {
		return nil
	}
	writer, err := broadcast.NewWriter(segment.Bytes())
	if err != nil {
		closeSegment(segment)
		return nil
	}
	return &topicShared{segment, writer}
}

// share publishes a record in shared memory. It waits for reliable subscribers there, with f.mu
// unlocked. Who calls it has the turn.
func (f *topicFeed) share(ctx context.Context, record []byte) error {
	w := f.shared.writer
	for {
		err := w.Write(tagRecord, record)
		if err != broadcast.ErrFull {
			return closedOr(err)
		}
		f.mu.Unlock()
		err = w.WaitSpace(ctx, len(record))
		f.mu.Lock()
		for s := range f.subs {
			if s.peer != nil && isSlow(s.peer.Err()) {
				f.cutOffNow(s)
			}
		}
		switch {
		case f.closed:
			return ErrClosed
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return closedOr(err)
		}
	}
}

func closedOr(err error) error {
	if err == broadcast.ErrClosed {
		return ErrClosed
	}
	return err
}

func isSlow(err error) bool {
	var slow *broadcast.SlowError
	return errors.As(err, &slow)
}

// closeShared ends the subscriptions that read shared memory, and gives this side's memory back.
func (f *topicFeed) closeShared(shared *topicShared) {
	shared.writer.Interrupt(broadcast.ErrClosed) // nobody waits for space any more
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	f.mu.Lock()
	// It wakes all readers at once. One that is so far behind that there is no room is not asleep.
	_ = shared.writer.Write(tagEnd, nil)
	for s := range f.subs {
		s.signal()
	}
	f.shared = nil
	f.mu.Unlock()
	shared.writer.Close()
	closeSegment(shared.segment)
}

// The tags of what is in shared memory: records, and that there are no more.
const (
	tagRecord = 0
	tagEnd    = 1
)

// serveShared serves a subscriber that reads shared memory: it sends what comes before that, and waits for the
// end.
func (f *topicFeed) serveShared(ctx context.Context, st AttachedStream, draining <-chan struct{}, s *topicSub, begin topicBegin, first [][]byte) error {
	a := new(Attachments)
	a.AddFile(sharedFile, s.file)
	err := st.SendAttached(ctx, begin.append(nil), a)
	s.file.Close()
	if err != nil {
		return errNotShared
	}
	if err := sendFirst(ctx, st, first); err != nil {
		return err
	}
	if err := st.Flush(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() { left <- f.countLost(ctx, st, s) }()
	returned := false
	defer func() {
		if cancel(); !returned {
			<-left
		}
	}()
	served := s.peer.Done()
	for {
		select {
		case <-s.wake: // the publisher was closed
			return nil
		case <-draining:
			return nil
		case err := <-left:
			returned = true
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-served:
			switch err := s.peer.Err(); {
			case isSlow(err):
				f.mu.Lock()
				f.cutOffNow(s)
				f.mu.Unlock()
			case errors.Is(err, broadcast.ErrCorrupt):
				return Errorf(CodeInvalidArgument, "subscription to %q: %w", f.name, err)
			}
			served = nil // it leaves
		}
	}
}

// countLost counts what a subscriber says that it has lost, until its stream ends.
func (f *topicFeed) countLost(ctx context.Context, st Stream, s *topicSub) error {
	for {
		b, err := st.Receive(ctx)
		if err != nil {
			return err
		}
		if len(b) != 8 {
			return Errorf(CodeInvalidArgument, "subscription to %q: an item of %d bytes", f.name, len(b))
		}
		lost := binary.LittleEndian.Uint64(b)
		f.mu.Lock()
		if lost > s.told && lost < f.ring.next {
			f.lost += lost - s.told
			s.told = lost
		}
		f.mu.Unlock()
	}
}
