package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Stream is one end of a stream of items in both directions. It is an [ipc.Stream].
//
//	stream.go          the streams of a session, and how they end
//	stream_open.go     how a stream opens
//	stream_send.go     items are gathered, and sent when the peer takes them
//	stream_flush.go    gathered items are sent that nobody else sends soon
//	stream_receive.go  items that have come and are not read yet; the stream's window
//	stream_frames.go   what becomes of the frames of streams
//	stream_wait.go     a goroutine waits for items, or for the window
//	stream_serve.go    the side of the handler
//	stream_claim.go    items that are built in place
//	stream_part.go     items that are as large as the window allows
//	stream_metadata.go header and trailer
//
// The two ends are alike, but for what they may end. The handler's side ends the whole
// stream, when the handler has returned. The side that has opened it can give it up.
type Stream struct {
	session *Session
	tx      uint64
	call    *ipc.Invocation // on the side that has opened the stream
	late    error           // the error of the deadline of ctx, on the same side
	ctx     context.Context // of the whole stream: what it was opened with, or the handler's
	from    *requestContext // of the handler that has opened the stream, or nil
	handler *requestContext // of the handler that serves it, or nil on the other side
	lasting bool            // nobody waits for its end

	in  streamIn
	out streamOut

	mu     sync.Mutex  // guards the following, and what in and out say
	opened bool        // the peer knows of it
	early  bool        // it was given up before that
	over   bool        // in both directions
	err    error       // why it is over: io.EOF if the handler has returned without an error
	stop   func()      // frees what watches ctx; nil if nothing does
	meta   int64       // what the metadata counts for that it was opened with, on the handler's side
	onEnd  func(error) // called when it is over, or nil
}

// streams are those of one session.
type streams struct {
	places sendWindow // for streams that we open
	budget streamBudget
	flush  streamFlusher

	mu     sync.Mutex
	opened uint64             // how many we have opened
	own    map[uint64]*Stream // that we have opened; nil are those that were given up
	peers  map[uint64]*Stream // whose handlers have not returned
	ending int                // ends of such streams that are being sent
	newest uint64             // the greatest tx that the peer has opened a stream with
	meta   int64              // what the metadata of peers counts for
	ended  error              // why we open no more; nil while we may
	over   bool               // the session has ended

	// reading counts goroutines that wait, and may read the link.
	reading atomic.Int64
	recent  *Stream // of the last frame; the reader's
}

// firstStream is the tx of the first stream of a side, but for the side's bit. Calls and
// streams have their txs in different tables.
const firstStream = 2

// add gives st its tx, as one that we open.
func (t *streams) add(st *Stream, side uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return t.ended
	}
	t.opened++
	st.tx = t.opened*firstStream | side
	if t.own == nil {
		t.own = make(map[uint64]*Stream)
	}
	t.own[st.tx] = st
	return nil
}

// pending counts the streams that we have opened, that go on, and that have an end of their own.
func (t *streams) pending() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, st := range t.own {
		if st != nil && !st.lasting {
			n++
		}
	}
	return n
}

// live returns the streams that we have opened and that go on. t.mu is held.
func (t *streams) live() (own []*Stream) {
	for _, st := range t.own {
		if st != nil {
			own = append(own, st)
		}
	}
	return own
}

// failStreams ends all streams, and those that are opened later, with err.
func (s *Session) failStreams(err error) {
	t := &s.streams
	t.mu.Lock()
	t.ended, t.over = err, true
	all := t.live()
	for _, st := range t.peers {
		all = append(all, st)
	}
	t.own, t.peers = nil, nil
	t.mu.Unlock()
	for _, st := range all {
		st.finish(err, false)
		if st.handler != nil {
			st.handler.cancel(drivers.ReasonGivenUp)
		}
	}
}

// failOwnStreams ends the streams that we have opened, and those that we would open later.
func (s *Session) failOwnStreams(err error) {
	t := &s.streams
	t.mu.Lock()
	t.ended = err
	own := t.live()
	t.mu.Unlock()
	for _, st := range own {
		st.abandon(err)
	}
}

func (st *Stream) init(window int64) {
	st.in.limit, st.in.granted = window, window
	st.out.lock.init()
	st.out.granted.Store(drivers.InitialStreamWindow)
	st.out.frame = drivers.Frame{Kind: drivers.KindItems, Tx: st.tx}
}

// finish ends the stream in both directions, with err. Only the first call counts. What has
// come can still be read, unless drop is set.
func (st *Stream) finish(err error, drop bool) bool {
	st.mu.Lock()
	if st.over {
		if drop && st.in.holdsAttached() {
			st.in.drop(st.session)
		}
		st.mu.Unlock()
		return false
	}
	st.over, st.err = true, err
	st.out.gone.Store(true)
	if drop {
		st.in.drop(st.session)
	}
	st.session.streams.budget.put(st.in.limit - drivers.InitialStreamWindow + st.in.kept)
	st.in.waiter.complete()
	st.out.waiter.complete()
	stop, onEnd := st.stop, st.onEnd
	if st.in.keepsAttached() {
		stop = nil // the end of the context has them released, unless they are read before
	} else {
		st.stop = nil
	}
	st.mu.Unlock()
	if stop != nil {
		stop()
	}
	if onEnd != nil {
		onEnd(withoutEOF(err))
	}
	return true
}

// Ended implements [ipc.EndedStream].
func (st *Stream) Ended() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.over
}

// errClosed is what the methods of a stream return after Close.
var errClosed = fmt.Errorf("%w: the stream was closed", ipc.ErrClosed)

// Close implements [ipc.Stream].
func (st *Stream) Close() {
	st.abandon(errClosed)
	st.dropUnread(errClosed) // it may have been over
}

// dropUnread forgets what has come before the stream was over and nobody will read, because of err.
func (st *Stream) dropUnread(err error) {
	st.mu.Lock()
	if st.in.first < len(st.in.chunks) {
		st.in.drop(st.session)
		st.err = err
	}
	stop := st.stop
	st.stop = nil
	st.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// abandon gives the stream up because of err, if it is not over. It is of the side that has
// opened the stream; the handler's side ends the stream by returning.
func (st *Stream) abandon(err error) {
	if st.handler != nil || !st.finish(err, true) {
		return
	}
	s := st.session
	s.streams.mu.Lock()
	if _, ok := s.streams.own[st.tx]; ok {
		s.streams.own[st.tx] = nil // until the handler has returned
	}
	s.streams.mu.Unlock()
	st.mu.Lock()
	st.early = !st.opened
	early := st.early
	st.mu.Unlock()
	if early {
		return // who opens it tells the peer
	}
	reason := drivers.EndGivenUp
	var timeout *ipc.TimeoutError
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) {
		reason = drivers.EndDeadline
	}
	st.sendGivenUp(reason)
}

// sendGivenUp tells the peer that the stream was given up, whenever there is room for that: the
// handler may wait for nothing else. It does not block.
func (st *Stream) sendGivenUp(reason byte) {
	s := st.session
	go func() {
		_ = s.link.Send(s.baseCtx, &drivers.Frame{Kind: drivers.KindEnd, Tx: st.tx, Payload: []byte{reason}}) // or the link has ended
	}()
}

// ended returns why the stream is over, or nil. That is io.EOF if the handler has returned.
func (st *Stream) ended() error {
	if !st.out.gone.Load() { // the usual case, and the quickest
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.endedLocked()
}

func (st *Stream) endedLocked() error {
	switch {
	case !st.over:
		return nil
	case st.err == io.EOF, st.handler != nil:
		return st.err
	}
	return st.session.update(st.err)
}
