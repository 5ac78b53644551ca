package ipc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring/broadcast"
)

// topicMemory is the shared memory that a subscription reads, or none.
type topicMemory struct {
	own, seg *broadcast.Segment
	reader   *broadcast.Reader // of the goroutine that receives
	shared   atomic.Bool       // there is a reader, or there was

	receiving sync.Mutex // held while somebody receives; who has it may release the memory

	mu       sync.Mutex
	ended    bool // the stream is over
	stop     bool // nothing more is read, though there may be something
	released bool

	interrupting sync.WaitGroup
}

// errStreamEnded says that there is nothing more in the memory, and that the stream says why.
var errStreamEnded = errors.New("tandem: the stream has ended")

// request sends a request with a segment of this side. It returns false if nothing was sent, for then the records have to
// come in a stream.
func (m *topicMemory) request(ctx context.Context, st Stream, r topicRequest) bool {
	shares, ok := st.(MemoryStream)
	if !ok || !shares.SharesMemory() {
		return false
	}
	own, err := broadcast.CreateReader()
	if err != nil {
		return false
	}
	r.shares = true
	a := new(Attachments)
	a.AddFile(sharedFile, NewFile(own.File()))
	err = shares.SendAttached(ctx, r.append(nil), a)
	if err == nil {
		err = own.CloseFile()
	}
	if err != nil {
		closeSegment(own)
		return false
	}
	m.own = own
	return true
}

// begin opens the memory that has come with what the publisher has said first, if there is some.
func (m *topicMemory) begin(st Stream, g topicBegin) error {
	var a *Attachments
	if attached, ok := st.(AttachedStream); ok {
		a = attached.Attachments()
	}
	defer a.Release()
	if !g.shared {
		closeSegment(m.own)
		m.own = nil
		return nil
	}
	if m.own == nil {
		return fmt.Errorf("%w: shared memory that was not asked for", ErrProtocol)
	}
	file, err := onlyFile(a)
	if err != nil {
		return err
	}
	if file == nil {
		return errNotShared
	}
	seg, err := broadcast.Open(file.File())
	if errors.Is(err, broadcast.ErrSeals) || errors.Is(err, broadcast.ErrLayout) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if err != nil {
		return errNotShared // this side is short of something
	}
	reader, err := broadcast.NewReader(seg.Bytes(), m.own.Bytes(), broadcast.At(broadcast.Point{Position: g.position, Sequence: g.next}))
	if err != nil {
		closeSegment(seg)
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seg, m.reader = seg, reader
	m.shared.Store(true)
	if m.ended {
		reader.Interrupt(errStreamEnded)
	}
	return nil
}

// reads reports whether the records come in memory. It is for the goroutine that receives.
func (m *topicMemory) reads() bool { return m.reader != nil }

// next returns the next record in the memory, and its number. The record is valid until the next one. end says that it is
// none, and that there are no more.
func (m *topicMemory) next(ctx context.Context) (n uint64, record []byte, end bool, err error) {
	for {
		m.mu.Lock()
		stop := m.stop
		m.mu.Unlock()
		if stop {
			return 0, nil, false, errStreamEnded
		}
		rec, ok, err := m.reader.Next()
		switch {
		case ok && rec.Tag <= tagEnd:
			return rec.Sequence, rec.Data, rec.Tag == tagEnd, nil
		case ok:
			return 0, nil, false, fmt.Errorf("%w: a record with tag %d", ErrProtocol, rec.Tag)
		case err == broadcast.ErrCutOff: // for which the stream has another word, or will have
			return 0, nil, false, errStreamEnded
		case err != nil:
			return 0, nil, false, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if err := m.reader.Wait(ctx); err != nil {
			if ctx.Err() != nil && err != errStreamEnded {
				return 0, nil, false, ctx.Err()
			}
			return 0, nil, false, errStreamEnded
		}
	}
}

// tell tells the publisher how many records are lost so far, if they come in memory.
func (m *topicMemory) tell(ctx context.Context, st Stream, lost uint64) {
	if m.reads() {
		_ = st.Send(ctx, binary.LittleEndian.AppendUint64(nil, lost)) // or the stream has ended
	}
}

// streamEnded is called when the stream is over, with why. It does not block.
func (m *topicMemory) streamEnded(err error) {
	var remote *Error
	// Nobody wants what there is after an end that this side has made.
	stop := err != nil && !errors.Is(err, ErrPeerGone) && !(errors.As(err, &remote) && remote.Remote())
	m.mu.Lock()
	m.ended = true
	m.stop = m.stop || stop
	if m.reader != nil && !m.released {
		// It waits until who receives has woken.
		m.interrupting.Go(func() { m.reader.Interrupt(errStreamEnded) })
	}
	m.mu.Unlock()
	if stop && m.receiving.TryLock() { // otherwise who receives does it
		m.release()
		m.receiving.Unlock()
	}
}

// over reports whether the stream is.
func (m *topicMemory) over() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// close makes who receives return, and gives the memory back.
func (m *topicMemory) close() {
	m.mu.Lock()
	m.stop = true
	if m.reader != nil && !m.released {
		m.interrupting.Go(func() { m.reader.Interrupt(errStreamEnded) })
	}
	m.mu.Unlock()
	m.receiving.Lock()
	defer m.receiving.Unlock()
	m.release()
}

// release gives the memory back. Nobody receives any more.
func (m *topicMemory) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.released {
		return
	}
	m.released, m.stop = true, true
	m.interrupting.Wait()
	if m.reader != nil {
		m.reader.Close()
	}
	closeSegment(m.seg)
	closeSegment(m.own)
}
