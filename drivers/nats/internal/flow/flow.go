// Package flow has two-way channels of messages between two subjects of NATS: flows. A flow loses
// nothing in silence, keeps the order, and bounds the memory of both sides: a sender waits for a
// receiver that does not read.
//
//	flow.go     a flow, and how it ends
//	port.go     where the frames of many flows arrive
//	frame.go    the bytes of frames
//	deliver.go  a frame has come
//	receive.go  items that have come and are not read yet; the window
//	send.go     items are gathered, and sent when the peer takes them
//	claim.go    items that are built in place, and such that are as large as the window allows
//	flush.go    gathered items are sent that nobody else sends soon
//	beat.go     a peer that has died
//
// One side opens a flow: it makes one with [Port.Open], and sends its Subject to the other side, in
// a message that is not part of this package. The other side calls [Port.Accept] with it.
package flow

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Flow is one end of a flow: items in both directions, which end independently. The side that has
// accepted it ends the whole with End; each side can give it up with Abort. The methods are those of
// an [ipc.Stream]: one goroutine at a time may receive, and any may call the others.
type Flow struct {
	port     *Port
	name     string
	expect   string // what the subject of the peer begins with; of the side that opens
	accepted bool   // this side has accepted the flow
	beat     time.Duration
	note     func([]byte) error

	opened chan struct{} // closed when the peer is known
	done   chan struct{} // closed when the flow is over in both directions
	peer   atomic.Pointer[string]

	wire   sync.Mutex // guards the following; held while a frame is published
	number uint64     // of the last frame that was sent
	mute   bool       // the last one has said that the flow is over

	in  in
	out out

	mu     sync.Mutex // guards the following, and what in and out say
	heard  uint64     // number of the last frame that has come
	missed int        // beats since then
	over   bool
	err    error // why it is over: io.EOF if the peer has ended it without an error
	end    []byte
	timer  *time.Timer
	onEnd  func(error)
}

// Open returns a flow that the other side is to accept, and that waits for that. What the peer calls
// itself has to begin with expect. note gets the notes of the other side, in their place between the
// items, from the goroutine that receives; its error ends the flow. It may be nil.
func (p *Port) Open(expect string, note func([]byte) error) (*Flow, error) {
	f := p.newFlow(p.config.Beat, note)
	f.expect = expect
	if err := p.add(f); err != nil {
		return nil, err
	}
	f.startBeat()
	return f, nil
}

// Accept returns the other end of a flow that was opened: by a peer at this subject, which takes
// granted bytes, and beats as often as beat says.
func (p *Port) Accept(subject string, granted int64, beat time.Duration, note func([]byte) error) (*Flow, error) {
	if granted < Initial || beat <= 0 || !validSubject(subject) {
		return nil, ipc.Errorf(ipc.CodeInvalidArgument, "tandem: a stream from %q with a window of %d bytes and a beat of %v", subject, granted, beat)
	}
	f := p.newFlow(beat, note)
	f.accepted = true
	f.out.granted.Store(granted)
	if err := p.add(f); err != nil {
		return nil, err
	}
	f.peer.Store(&subject)
	close(f.opened)
	if err := f.transmit(kindAccept, append(make([]byte, header), f.Subject()...)); err != nil {
		f.Abort(err)
		return nil, err
	}
	f.startBeat()
	return f, nil
}

// Refuse tells whoever has opened a flow at this subject that nobody accepts it, because of err.
func Refuse(bus Bus, subject string, err error) error {
	b := ipc.AppendError(make([]byte, header), err)
	putHeader(b, kindAbort, 1, 0)
	return bus.Publish(subject, b)
}

// validSubject reports whether a peer may have this subject.
func validSubject(s string) bool {
	if s == "" || len(s) > 1<<10 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '*' || c == '>' || c >= 0x7f {
			return false
		}
	}
	return true
}

func (p *Port) newFlow(beat time.Duration, note func([]byte) error) *Flow {
	f := &Flow{port: p, beat: beat, note: note, opened: make(chan struct{}), done: make(chan struct{})}
	f.in.init()
	f.out.init(f)
	return f
}

// Subject is where the peer sends its frames to.
func (f *Flow) Subject() string { return f.port.base + "." + f.name }

// Granted is how many bytes of frames this side takes at first.
func (f *Flow) Granted() int64 { return Initial }

// Opened waits until the other side has accepted the flow, which may be over by then. It returns why the flow is over
// if it was not accepted.
func (f *Flow) Opened(ctx context.Context) error {
	select {
	case <-f.opened:
		return nil
	case <-f.done:
	case <-ctx.Done():
	}
	select {
	case <-f.opened: // before it was over
		return nil
	default:
	}
	if err := f.Err(); err != nil {
		return err
	}
	return ctx.Err()
}

// Done is closed when the flow is over in both directions.
func (f *Flow) Done() <-chan struct{} { return f.done }

// Err returns why the flow is over, io.EOF if the other side has ended it without an error, and
// nil while it goes on.
func (f *Flow) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Notify makes the flow call onEnd once, when it is over, with nil in the place of io.EOF.
func (f *Flow) Notify(onEnd func(error)) {
	f.mu.Lock()
	over, err := f.over, f.err
	f.onEnd = onEnd
	f.mu.Unlock()
	if over {
		onEnd(withoutEOF(err))
	}
}

// withoutEOF returns nil for an end without an error.
func withoutEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// finish ends the flow in both directions, with err. Only the first call counts. What has come
// can still be read, unless drop is set. It reports whether it was the first, and does not block.
func (f *Flow) finish(err error, drop bool) bool {
	f.mu.Lock()
	if f.over {
		f.mu.Unlock()
		return false
	}
	f.over, f.err = true, err
	if drop {
		f.in.drop()
	}
	f.port.budget.put(f.in.limit - Initial)
	known := f.peer.Load() != nil
	if known && f.timer != nil {
		f.timer.Stop()
	}
	onEnd := f.onEnd
	f.mu.Unlock()
	f.out.timer.Stop()
	if known {
		f.port.remove(f) // any other stays until it can tell its peer, or there is none
	}
	close(f.done)
	if onEnd != nil {
		onEnd(withoutEOF(err))
	}
	return true
}

// Abort gives the flow up because of err, if it is not over. The peer is told, with the code and the
// sentinels of err. What has come and was not read is dropped, also if the flow was over: Receive
// returns err then.
func (f *Flow) Abort(err error) {
	if f.abort(err) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.in.first < len(f.in.arrivals) {
		f.in.drop()
		f.err = err
	}
}

// abort is Abort if the flow is not over, and otherwise does nothing.
func (f *Flow) abort(err error) bool {
	first := f.finish(err, true)
	if first {
		f.tell(err)
	}
	return first
}

// fail gives the flow up because of err. It does not block.
func (f *Flow) fail(err error, drop bool) {
	if f.finish(err, drop) {
		go f.tell(err)
	}
}

// tell sends the peer why this side has given the flow up, if it can be sent.
func (f *Flow) tell(err error) {
	if f.peer.Load() == nil {
		return // it is told when it is known
	}
	_ = f.transmit(kindAbort, f.bounded(err, make([]byte, header))) // a peer that is not told finds out by its beats
}

// bounded appends err to b, unless that would be too large for a message: then what says so.
func (f *Flow) bounded(err error, b []byte) []byte {
	whole := ipc.AppendError(b, err)
	if most := f.port.bus.MaxPayload(); int64(len(whole)) > most {
		e := ipc.Errorf(ipc.CodeOf(err), "tandem: an error of %d bytes, which is more than a message may have: %.100s", len(whole), err)
		return ipc.AppendError(b, e)
	}
	return whole
}

// End ends the flow, after all that was sent: with a note if that is not nil, and with err, or
// without an error if that is nil. The peer's error wraps [ipc.ErrPeerGone] if err does. It is of the side that has
// accepted the flow. If ctx ends before all can be sent the cause of that is the error.
func (f *Flow) End(ctx context.Context, note []byte, err error) {
	if f.lock(ctx) == nil {
		if o := &f.out; len(o.buffer) > 0 && o.granted.Load()-o.sent < cost(len(o.buffer)) {
			f.TakeNoMore() // the peer may not read before it has sent all
		}
		if sent := f.sendGathered(ctx); sent != nil && err == nil {
			if err = sent; ctx.Err() != nil { // the peer must not take that for all
				err = context.Cause(ctx)
			}
		}
		if cut := f.out.cut; cut != nil && err == nil {
			err = cut
		}
		f.out.closed.Store(true)
		f.unlock()
	} else if err == nil {
		err = context.Cause(ctx)
	}
	if !f.finish(io.EOF, true) {
		return
	}
	b := appendEnd(make([]byte, header), note, errors.Is(err, ipc.ErrPeerGone))
	if err != nil {
		b = f.bounded(err, b)
	}
	if f.retry(ctx, kindEnd, b) != nil {
		f.tell(ipc.Errorf(ipc.CodeUnavailable, "tandem: the end of the stream could not be sent"))
	}
}

// errSendClosed is what a sender gets after CloseSend or End.
var errSendClosed = ipc.Errorf(ipc.CodeFailedPrecondition, "tandem: the sending side of the stream was closed")

// errMute is the error of a frame after the last one.
var errMute = errors.New("tandem: the stream is over")

// transmit numbers a frame, whose first bytes are room for the header, and publishes it.
func (f *Flow) transmit(kind byte, b []byte) error {
	f.wire.Lock()
	defer f.wire.Unlock()
	return f.transmitLocked(kind, b)
}

func (f *Flow) transmitLocked(kind byte, b []byte) error {
	if f.mute {
		return errMute
	}
	putHeader(b, kind, f.number+1, f.in.granted.Load())
	if err := f.port.bus.Publish(*f.peer.Load(), b); err != nil {
		return err
	}
	f.number++
	f.mute = kind == kindAbort || kind == kindEnd
	return nil
}
