package shm

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/sendlock"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// Buffers cross a link as handles. For each buffer that is sent the sender takes a place, of
// which the link has maxPlaces, and holds the buffer until the peer has released what it got.
// The peer says so in memory of its own, the acks: a word for each place, which is how often what
// came in that place was released. So a release takes no message and no system call, nobody
// writes the memory of another, and when the peer dies all that it held is free.
//
//	sender                                    receiver
//	place 7 is free, used 3 times
//	holds the buffer, use 4  -- handle -->    its use 4 of place 7: a Buffer
//	...                                       Buffer.Release: acks[7] = 4
//	acks[7] is 4: lets go of the buffer
//
// The sender looks at the acks when it needs a place, and when an arena needs memory.
const (
	lazyPlaces = 32 // buffers that may be released for a while before the sender looks
	lazyBytes  = 64 << 10

	maxPlaces  = 4096 // buffers that a side has sent and the peer has not released
	maxRegions = 1024 // that a side has passed to the peer
	acksSize   = maxPlaces * 8
)

// exports are the buffers that the peer has of this side.
type exports struct {
	// pass passes a region to the peer under an index; forget says that the region has gone.
	pass   func(ctx context.Context, index uint32, size int, f *os.File) error
	forget func(index uint32) error
	gone   <-chan struct{} // closed when the link has ended
	peer   int             // its process id

	telling tellers // tell the peer of regions that have gone, and of acks

	acks    atomic.Pointer[sealed.Memory] // the peer's, nil until they have come
	records atomic.Bool                   // they cannot be mapped, and the peer says by records what it has released

	lock    sendlock.Lock // guards what follows
	ended   bool
	places  []export
	free    []uint32 // places
	sent    []uint32 // places that are used, in the order of their use; from first on
	first   int
	bytes   int // in them
	regions map[ipc.Region]*exportedRegion
	// last is the region that was looked for last, nil if there is none.
	last       ipc.Region
	lastPassed *exportedRegion
	stops      map[uint32]func() // by the index of the region: takes its notification back
	next       uint32            // index of a region
	passed     int               // regions that the peer has, and those that it has not forgotten yet
	spill      *ipc.Arena        // for buffers that do not lie in shared memory, nil before the first
	sweeper    *time.Timer
	pause      time.Duration // of the sweeper
	foreign    bool          // the peer may have what another process has made
	spilled    int           // places with what lies in spill

	leaving atomic.Int64 // regions that have gone, and of which the peer does not know yet
}

// export is a place.
type export struct {
	hold    ipc.Buffer // zero if the place is free
	region  *exportedRegion
	use     uint64
	spilled bool
}

// attach takes places for all buffers of a frame, and appends their handles. It waits while the peer
// holds as many buffers as it may. Until there is room for all of them it takes no place: several
// senders that had a part each would wait for each other.
func (e *exports) attach(ctx context.Context, list []ipc.Attached[ipc.Buffer], handles []byte) ([]byte, error) {
	for pause := 10 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		if !e.lock.Lock(ctx, e.gone) {
			return nil, e.whyNot(ctx)
		}
		all, ok, err := e.tryAttach(ctx, list, handles)
		e.lock.Unlock()
		if ok || err != nil {
			return all, err
		}
		select {
		case <-ctx.Done():
			return nil, e.whyNot(ctx)
		case <-e.gone:
			return nil, e.whyNot(ctx)
		case <-time.After(pause):
		}
	}
}

func (e *exports) whyNot(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ipc.ErrDisconnected
}

// tryAttach is attach that does not wait for room. The lock is held.
func (e *exports) tryAttach(ctx context.Context, list []ipc.Attached[ipc.Buffer], handles []byte) (all []byte, ok bool, err error) {
	if e.ended {
		return nil, false, ipc.ErrDisconnected
	}
	// To read an ack is a cache miss, since the peer has written it. So small buffers are
	// reclaimed many at once, and large ones soon, while they are in the cache.
	if len(e.sent)-e.first >= lazyPlaces || e.bytes >= lazyBytes {
		e.reclaim(2 * lazyPlaces)
	}
	room := func() bool { return len(e.free)+maxPlaces-len(e.places) >= len(list) }
	if !room() {
		if e.reclaim(maxPlaces); !room() {
			return nil, false, nil
		}
	}
	all = handles
	for i := range list {
		h, err := e.attachOne(ctx, list[i].What)
		known := true
		if errors.Is(err, ipc.ErrExhausted) { // perhaps until the peer has released some
			known = e.reclaim(maxPlaces)
			h, err = e.attachOne(ctx, list[i].What)
		}
		if err != nil {
			e.undo(all[len(handles):])
			if errors.Is(err, ipc.ErrExhausted) && e.mayGetRoom(err, known) {
				return nil, false, nil
			}
			return nil, false, err
		}
		h.Number = list[i].Number
		all = h.Append(all)
	}
	return all, true, nil
}

// attachOne takes a place for a buffer, of which there is one. The lock is held.
func (e *exports) attachOne(ctx context.Context, b ipc.Buffer) (h drivers.Handle, err error) {
	hold, region, offset, spilled, err := e.shared(ctx, b)
	if err != nil {
		return h, err
	}
	passed, err := e.regionOf(ctx, region)
	if err != nil {
		hold.Release()
		return h, err
	}
	var place uint32
	if n := len(e.free); n > 0 {
		place = e.free[n-1]
		e.free = e.free[:n-1]
	} else {
		place = uint32(len(e.places))
		e.places = append(e.places, export{})
	}
	p := &e.places[place]
	p.hold, p.region, p.spilled = hold, passed, spilled
	e.bytes += hold.Len()
	passed.held++
	if spilled {
		e.spilled++
	}
	p.use++
	if len(e.sent) == cap(e.sent) && e.first > len(e.sent)/2 {
		e.sent = e.sent[:copy(e.sent, e.sent[e.first:])]
		e.first = 0
	}
	e.sent = append(e.sent, place)
	_, foreign := region.(*importedRegion)
	if e.sweeper == nil || foreign && !e.foreign {
		e.sweepLater(foreign)
	}
	return drivers.Handle{Place: place, Region: passed.index, Offset: uint64(offset), Size: uint64(hold.Len())}, nil
}

// close lets go of all. The link has ended, and most likely the peer.
func (e *exports) close() {
	_ = e.lock.Lock(context.Background(), nil)
	defer e.lock.Unlock()
	if acks := e.acks.Swap(nil); acks != nil { // which may have come after the first time
		acks.Close()
	}
	if e.ended {
		return
	}
	e.ended = true
	if e.sweeper != nil {
		e.sweeper.Stop()
		e.sweeper = nil
	}
	for _, place := range e.sent[e.first:] {
		e.release(place)
	}
	e.sent, e.first = nil, 0
	for _, stop := range e.stops {
		stop()
	}
	if e.spill != nil {
		e.spill.Close()
	}
}
