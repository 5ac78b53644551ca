package shm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

// link carries frames in two rings. A frame is one message of the ring: the
// ring's tag is the frame's, the message its header and payload.
type link struct {
	producer     *ring.Producer
	consumer     *ring.Consumer
	ours, theirs *ring.Segment
	control      *net.UnixConn
	peer         drivers.Hello
	credentials  drivers.Credentials // of the peer
	maxMessage   int

	// send guards producer and what follows.
	send     sendlock.Lock
	header   [drivers.MaxHeader + 4*drivers.HandleSize]byte
	claimed  int // bytes of the header of what is claimed
	claimTag byte

	sentFiles uint32 // that were passed so far; guarded by send

	out controlWriter
	in  controlReader

	held    drivers.HeldFiles
	exports exports
	imports imports

	row int // of frames without a pause; the reader's

	// end is set once, when the link ends; gone is closed then.
	end     atomic.Pointer[error]
	endOnce sync.Once
	gone    chan struct{}

	// mapped is read-locked by those who may use the memory at any time.
	mapped    sync.RWMutex
	unmapped  atomic.Bool
	closeOnce sync.Once
	closeErr  error
	watching  sync.WaitGroup
}

func newLink(control *net.UnixConn, ours, theirs *ring.Segment, wait Wait, maxMessage int, peer drivers.Hello) (*link, error) {
	producer, consumer, err := ring.Join(ours.Bytes(), theirs.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%w: shm: %w", ipc.ErrProtocol, err)
	}
	l := &link{
		producer: producer, consumer: consumer, ours: ours, theirs: theirs, control: control,
		peer: peer, credentials: drivers.NoCredentials, maxMessage: maxMessage, gone: make(chan struct{}),
	}
	l.send.Init()
	l.initBuffers()
	if err := l.initControl(); err != nil {
		return nil, err
	}
	producer.SetWait(wait)
	consumer.SetWait(wait)
	producer.SetMaxMessage(maxMessage)
	consumer.SetMaxMessage(maxMessage)
	return l, nil
}

// finish ends the link with err, if it has not ended. The memory stays.
func (l *link) finish(err error) {
	l.endOnce.Do(func() {
		l.end.Store(&err)
		close(l.gone)
		l.producer.Interrupt(err)
		l.Wake()
		l.exports.telling.start(l.exports.close) // what the peer has had is free
	})
}

// Send implements [drivers.Link].
func (l *link) Send(ctx context.Context, f *drivers.Frame) error {
	if f.Attached != nil {
		return l.sendAttached(ctx, f)
	}
	return l.sendFrame(ctx, f)
}

// sendAttached is Send for a frame with attachments.
func (l *link) sendAttached(ctx context.Context, f *drivers.Frame) error {
	own := f.Handles
	err := l.attachBuffers(ctx, f)
	if err == nil {
		err = l.sendFrame(ctx, f)
	}
	if err != nil {
		l.unattach(f)
	}
	f.Handles = own
	return err
}

// sendFrame sends a frame, and passes its files.
func (l *link) sendFrame(ctx context.Context, f *drivers.Frame) error {
	if !l.send.Lock(ctx, l.gone) {
		return l.whyNot(ctx)
	}
	defer l.send.Unlock()
	if end := l.end.Load(); end != nil {
		return *end
	}
	if f.Attached != nil {
		if err := l.attachFiles(ctx, f); err != nil {
			return err
		}
	}
	header := f.AppendHeader(l.header[:0])
	err := l.producer.Send(ctx, f.Tag(), header, f.Payload)
	if err != nil {
		return l.failed(err, len(header)+len(f.Payload))
	}
	return nil
}

// SendBatch implements [drivers.Link]. Nothing but plain stores lie between two frames,
// so their cache misses overlap. Frames with attachments are sent one by one.
func (l *link) SendBatch(ctx context.Context, frames []drivers.Frame) (n int, err error) {
	for n < len(frames) {
		plain := frames[n:]
		for i := range plain {
			if plain[i].Attached != nil {
				plain = plain[:i]
				break
			}
		}
		sent, err := l.sendPlain(ctx, plain)
		if n += sent; err != nil {
			return n, err
		}
		if n < len(frames) {
			if err := l.sendAttached(ctx, &frames[n]); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// sendPlain is SendBatch for frames without attachments.
func (l *link) sendPlain(ctx context.Context, frames []drivers.Frame) (n int, err error) {
	if len(frames) == 0 {
		return 0, nil
	}
	if !l.send.Lock(ctx, l.gone) {
		return 0, l.whyNot(ctx)
	}
	defer l.send.Unlock()
	if end := l.end.Load(); end != nil {
		return 0, *end
	}
	defer l.producer.Publish()
	for i := range frames {
		f := &frames[i]
		header := f.AppendHeader(l.header[:0])
		if err := l.producer.SendBatched(ctx, f.Tag(), header, f.Payload); err != nil {
			return i, l.failed(err, len(header)+len(f.Payload))
		}
	}
	return len(frames), nil
}

// failed turns an error of the producer, for a frame of size bytes, into the link's.
func (l *link) failed(err error, size int) error {
	switch {
	case errors.Is(err, ring.ErrTooLarge):
		return &ipc.SizeError{Size: size, Limit: l.maxMessage}
	case errors.Is(err, ring.ErrCorrupt):
		err = fmt.Errorf("%w: shm: %w", ipc.ErrProtocol, err)
		l.finish(err)
	}
	return err
}

// whyNot says why a sender gave up waiting.
func (l *link) whyNot(ctx context.Context) error {
	if end := l.end.Load(); end != nil {
		return *end
	}
	return ctx.Err()
}

// Claim implements [drivers.Claimer].
func (l *link) Claim(ctx context.Context, f *drivers.Frame, n int) (buf []byte, err error) {
	if !l.send.Lock(ctx, l.gone) {
		return nil, l.whyNot(ctx)
	}
	defer func() {
		if err != nil {
			l.send.Unlock()
		}
	}()
	if end := l.end.Load(); end != nil {
		return nil, *end
	}
	header := f.AppendHeader(l.header[:0])
	l.claimed, l.claimTag = len(header), f.Tag()
	// Half of what is possible, so that the peer can free one while the next is built.
	if size, limit := len(header)+n, min(l.maxMessage, l.producer.MaxRecord()/2); size > limit {
		return nil, &ipc.SizeError{Size: size, Limit: limit}
	}
	buf, err = l.producer.Claim(ctx, len(header)+n)
	if err != nil {
		return nil, l.failed(err, len(header)+n)
	}
	copy(buf, header)
	return buf[len(header):], nil
}

// Commit implements [drivers.Claimer].
func (l *link) Commit(n int) {
	l.producer.Commit(l.claimTag, l.claimed+n)
	l.producer.Publish()
	l.send.Unlock()
}

// Abort implements [drivers.Claimer].
func (l *link) Abort() {
	l.producer.Abort()
	l.send.Unlock()
}

// Next implements [drivers.Link].
func (l *link) Next(f *drivers.Frame) (bool, error) {
	// Look at the end first: what was published before it is then seen below.
	end := l.end.Load()
	if end != nil && l.unmapped.Load() {
		return false, *end
	}
	m, ok, err := l.consumer.Message()
	if ok {
		if err := f.Parse(m.Tag, m.Data); err != nil {
			l.finish(err)
			return false, err
		}
		if f.Handles != nil {
			if err := l.detach(f); err != nil {
				l.finish(err)
				return false, err
			}
		}
		f.Owned = m.Owned
		// Where frames come one at a time, this look would cost a cache miss.
		l.row++
		f.More = l.row > 1 && l.consumer.Ready()
		return true, nil
	}
	l.row = 0
	if err != nil {
		err = fmt.Errorf("%w: shm: %w", ipc.ErrProtocol, err)
		l.finish(err)
		return false, err
	}
	if end != nil && !l.consumer.Ready() { // or there are more pieces of a message
		return false, *end
	}
	return false, nil
}

// Hold implements [drivers.Link].
func (l *link) Hold() func() {
	lease := l.consumer.Lease()
	return func() {
		l.mapped.RLock()
		defer l.mapped.RUnlock()
		if !l.unmapped.Load() {
			lease.Release()
		}
	}
}

// Recycle implements [drivers.Link].
func (l *link) Recycle(b []byte) { ring.Recycle(b) }

// Spin implements [drivers.Link].
func (l *link) Spin() bool { return l.end.Load() != nil || l.consumer.Spin() }

// Arm implements [drivers.Link].
func (l *link) Arm() {
	if l.end.Load() != nil {
		l.consumer.StopSpinning()
		return
	}
	l.consumer.Arm()
}

// Disarm implements [drivers.Link].
func (l *link) Disarm() {
	if l.end.Load() == nil {
		l.consumer.Disarm()
	}
}

// Ready implements [drivers.Link].
func (l *link) Ready() bool { return l.end.Load() != nil || l.consumer.Ready() }

// Sleep implements [drivers.Link].
func (l *link) Sleep(until func() bool) {
	l.mapped.RLock()
	defer l.mapped.RUnlock()
	if l.end.Load() != nil {
		return
	}
	l.consumer.Sleep(until)
}

// Wake implements [drivers.Link].
func (l *link) Wake() {
	l.mapped.RLock()
	defer l.mapped.RUnlock()
	if !l.unmapped.Load() {
		l.consumer.Wake()
	}
}

// Peer implements [drivers.Link].
func (l *link) Peer() drivers.Hello { return l.peer }

// PeerCredentials implements [drivers.Identifier].
func (l *link) PeerCredentials() drivers.Credentials { return l.credentials }

// Shutdown implements [drivers.Link].
func (l *link) Shutdown() {
	l.finish(ipc.ErrDisconnected)
	l.closeControl()
}

// Close implements [drivers.Link].
func (l *link) Close() error {
	l.closeOnce.Do(func() {
		l.Shutdown()
		l.watching.Wait()
		l.dropControl()
		l.closeBuffers()
		// Senders leave as the producer is interrupted; later ones see the end.
		l.send.Lock(context.Background(), nil)
		defer l.send.Unlock()
		l.mapped.Lock()
		defer l.mapped.Unlock()
		l.unmapped.Store(true)
		l.consumer.StopSpinning()
		l.closeErr = errors.Join(l.ours.Close(), l.theirs.Close())
	})
	return l.closeErr
}
