package broadcast

import (
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ring/internal/shared"
	"github.com/tandemipc/tandem/ring/internal/wait"
)

// A PeerOption says what a writer does for a reader, see [Writer.Add].
type PeerOption func(*peerOptions)

type peerOptions struct {
	reliable bool
	patience time.Duration
	maxLag   uint64
}

// Reliable has the writer wait for the reader: none of the records that it has not read is overwritten,
// until it is cut off.
//
// The writer cuts it off once the writer has been without space because of this reader for as
// long as patience, whether it blocks or only tries. 0 is for ever. It does so when it
// looks for space again: a writer that has nothing to write disturbs nobody.
func Reliable(patience time.Duration) PeerOption {
	return func(o *peerOptions) { o.reliable, o.patience = true, max(patience, 0) }
}

// MaxLag has the writer cut a reliable reader off, without waiting, when more than n bytes of
// the ring are unread, records' words and padding included. The writer looks every 64th of the ring. By
// default there is no such limit, only Reliable's patience once the ring is full. With the ring's size the
// reader is cut off when the ring is full. It has no effect on a reader that is not reliable.
func MaxLag(n int) PeerOption { return func(o *peerOptions) { o.maxLag = uint64(max(n, 0)) } }

// A Peer is what a writer knows of a reader that has a segment. Any goroutine may call its
// methods.
type Peer struct {
	w       *Writer
	id      uint64
	place   int
	joinAt  Point
	options peerOptions

	seen    *uint64      // the reader's position: not trusted
	waiting *uint32      // does it want data?
	rung    uint32       // the value of waiting that was last rung for; atomic
	sleep   wait.Sleeper // of the writer, for space
	done    chan struct{}
	err     wait.Failure // why it is done

	// Guarded by w.mu.
	position uint64        // the writer overwrites nothing from here on
	joined   bool          // the reader has stored a position
	blocked  time.Duration // since when the writer has waited for it; 0 if it does not
	need     uint64        // the position that the writer has waited for since then
}

// Add has the writer serve the reader whose own segment is own: ring for it when it is parked
// and, with [Reliable], wait for it. own may be mapped read-only; it must stay mapped until
// [Peer.Remove] or [Writer.Close] has returned.
//
// A reliable reader that has joined before is waited for from its position on, unless that has been
// overwritten. Any other is from [Peer.Joined] on: it finds all records from there, whenever it joins.
//
// Errors wrap [ErrLayout], or are [ErrTooManyReaders], [ErrSameReader] or [ErrClosed]. Any
// goroutine may call Add.
func (w *Writer) Add(own []byte, opts ...PeerOption) (*Peer, error) {
	id, err := readID(own)
	if err != nil {
		return nil, err
	}
	o := peerOptions{maxLag: math.MaxUint64}
	for _, opt := range opts {
		opt(&o)
	}
	p := &Peer{
		w:       w,
		id:      id,
		options: o,
		seen:    shared.At64(own, offPosition),
		waiting: shared.At32(own, offDataWaiting),
		sleep:   wait.Sleeper{Bell: shared.At32(own, offSpaceBell)},
		done:    make(chan struct{}),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, ErrClosed
	}
	if err := w.findPlace(p); err != nil {
		return nil, err
	}
	p.joinAt = w.mark
	p.position = w.mark.Position
	if seen := atomic.LoadUint64(p.seen); o.reliable && seen%align == 0 && w.limit64()-seen <= w.size {
		p.position, p.joined = seen, true
	}
	w.places[p.place] = p
	state := uint64(placeWatched)
	if o.reliable {
		state = placeReliable
	}
	w.replacePeers()
	// SYNC: pairs with Reader.service: a reader that sees this is rung for what is published
	// after it looks again, since peers has been stored before.
	at := offPlace + p.place*placeSize
	atomic.StoreUint64(shared.At64(w.seg, at), 0) // whose place it was is not to see the new state
	atomic.StoreUint64(shared.At64(w.seg, at+8), state)
	atomic.StoreUint64(shared.At64(w.seg, at), id)
	return p, nil
}

// findPlace gives p the place that has been free for longest: a reader that was there may not know yet that
// it was removed. The caller holds mu.
func (w *Writer) findPlace(p *Peer) error {
	p.place = -1
	for k := range MaxReaders {
		i := (w.nextPlace + k) % MaxReaders
		switch other := w.places[i]; {
		case other != nil && other.id == p.id:
			return ErrSameReader
		case other == nil && p.place < 0:
			p.place = i
		}
		if id := shared.At64(w.seg, offPlace+i*placeSize); atomic.LoadUint64(id) == p.id {
			atomic.StoreUint64(id, 0) // it was here before
		}
	}
	if p.place < 0 {
		return fmt.Errorf("%w: %d", ErrTooManyReaders, MaxReaders)
	}
	w.nextPlace = p.place + 1
	return nil
}

// limit64 is intent, for goroutines other than the writer's. The caller holds mu.
func (w *Writer) limit64() uint64 { return atomic.LoadUint64(w.intent) }

// free gives the place back, and tells the reader. The caller holds mu, and calls replacePeers
// afterwards.
func (p *Peer) free() {
	p.w.places[p.place] = nil
	p.tell()
}

// tell tells the reader that it is no longer served.
func (p *Peer) tell() {
	// SYNC: pairs with Reader.service.
	atomic.StoreUint64(shared.At64(p.w.seg, offPlace+p.place*placeSize+8), placeCutOff)
}

// replacePeers makes peers those of places that are to be rung for. The caller holds mu.
func (w *Writer) replacePeers() {
	var peers []*Peer
	for _, p := range w.places {
		if p != nil && p.err.Get() == nil {
			peers = append(peers, p)
		}
	}
	if peers == nil {
		w.peers.Store(nil)
		return
	}
	w.peers.Store(&peers)
}

// Joined returns from where on a reliable reader misses nothing that it finds when it joins
// there, by [At]: the mark that was the newest at Add, at most a 64th of the ring and a batch before what was being published then.
func (p *Peer) Joined() Point { return p.joinAt }

// Reliable reports whether the writer was asked to wait for the reader.
func (p *Peer) Reliable() bool { return p.options.reliable }

// Done returns a channel that is closed when the writer no longer serves the reader: because it was cut
// off, has left or was removed.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Err returns nil as long as the writer serves the reader. Then it says why it does not: a [*SlowError],
// a [*ring.CorruptError] if the reader's words make no sense, [ErrLeft], or [ErrRemoved].
func (p *Peer) Err() error { return p.err.Get() }

// Lag returns how many bytes of the ring the reader has not read yet, by what it says: readers
// say so every eighth of the ring, and when they park. It is 0 for one that has not joined. The
// value is a hint.
func (p *Peer) Lag() uint64 {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.err.Get() != nil {
		return 0
	}
	seen := atomic.LoadUint64(p.seen)
	lag := atomic.LoadUint64(&p.w.published)&^inProgress - seen
	if seen%align != 0 || int64(lag) < 0 {
		return 0
	}
	return lag
}

// refresh loads the position of a reader, once, validates it, and cuts the reader off if that is
// due before bytes up to end behind head are written. It reports whether the reader is still
// served. The caller holds mu.
func (p *Peer) refresh(head, end uint64) bool {
	if p.err.Get() != nil {
		return false
	}
	// SYNC: pairs with Reader.publish: what was read below the position, was read before it
	// is overwritten.
	seen := atomic.LoadUint64(p.seen)
	switch {
	case seen == positionLeft:
		p.end(ErrLeft)
		p.free()
		return false
	case !p.options.reliable:
		return true
	case seen == p.position:
		p.joined = true
	case seen == positionUnset && !p.joined:
	case seen%align == 0 && seen-p.position <= head-p.position && int64(head-p.position) >= 0:
		p.position, p.joined = seen, true
	case seen%align == 0 && !p.joined && int64(seen-p.position) < 0:
		// It has joined before Add, and is on its way to where Add has begun.
	default:
		p.cutOff(corrupt(head, "reader's position %d, want a multiple of %d from %d to %d", seen, align, p.position, head))
		return false
	}
	lag := head - p.position
	if int64(lag) < 0 {
		p.cutOff(corrupt(head, "reader's position %d, want at most %d", p.position, head))
		return false
	}
	if lag+end > p.options.maxLag {
		p.cutOff(&SlowError{Lag: lag})
		return false
	}
	if lag+end <= p.w.size {
		p.blocked = 0
		return true
	}
	now := clock()
	if p.blocked == 0 || int64(p.position-p.need) >= 0 {
		p.blocked, p.need = max(now, 1), head+end-p.w.size
	}
	if waited := now - p.blocked; p.options.patience > 0 && waited >= p.options.patience {
		p.cutOff(&SlowError{Lag: lag, Waited: waited})
		return false
	}
	return true
}

var clockBase = time.Now()

// clock is monotonic.
func clock() time.Duration { return time.Since(clockBase) }

// patience returns after which time the reader is to be cut off, if it does not read; 0 is never. The
// caller holds mu.
func (p *Peer) patience() time.Duration {
	if p.options.patience == 0 {
		return 0
	}
	return max(p.options.patience-(clock()-p.blocked), 1)
}

// cutOff ends the writer's service and tells the reader. The caller holds mu, and calls
// replacePeers afterwards.
func (p *Peer) cutOff(err error) {
	p.end(err)
	p.tell()
	p.w.ringAll() // it may be parked
}

// end makes the peer done. The caller holds mu.
func (p *Peer) end(err error) {
	if p.err.Get() == nil {
		p.err.Set(err)
		close(p.done)
	}
}

// Remove makes the writer forget the reader. A reader that is alive is told, by [ErrCutOff]. When
// Remove has returned, the writer does not touch the reader's segment any more, and it can be
// unmapped. A writer that is blocked because of this reader goes on. Removing again does nothing.
func (p *Peer) Remove() {
	w := p.w
	w.mu.Lock()
	p.end(ErrRemoved)
	if w.places[p.place] == p {
		p.free()
		w.replacePeers()
		w.ringAll() // it may be parked
	}
	w.mu.Unlock()
	p.sleep.Wake() // the writer, if it sleeps for this reader
	w.quiesce()
}

// Close ends the writer's service for all readers, as [Peer.Remove] does, except that readers
// are not told: what they have not read is still there. Later operations that need space return [ErrClosed].
// When Close has returned, nothing of the Writer touches its memory any more unless one of its methods is
// called. Any goroutine may call it. Closing again does nothing.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	var peers []*Peer
	for _, p := range w.places {
		if p != nil {
			peers = append(peers, p)
			p.end(ErrRemoved)
		}
	}
	clear(w.places[:])
	w.peers.Store(nil)
	w.mu.Unlock()
	for _, p := range peers {
		p.sleep.Wake()
	}
	w.quiesce()
	for w.waker.state.Load() != wakerAsleep {
		runtime.Gosched()
	}
}

// wake makes a writer that waits for space look why.
func (w *Writer) wake() {
	if peers := w.peers.Load(); peers != nil {
		for _, p := range *peers {
			p.sleep.Wake()
		}
	}
}
