package shm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// imports are the buffers of the peer that this side has. They outlive the link until they
// are released.
type imports struct {
	// discard closes a file that may be anything, soon.
	discard func(*os.File)
	// catchUp reads what the peer has passed, until done reports true.
	catchUp func(done func() bool)
	// sendAcks passes the memory of the acks to the peer. It does not block.
	sendAcks func(*os.File)
	// sendReleased tells the peer of a place whose buffer was released, while there are no acks. It
	// does not block.
	sendReleased func(place uint32, use uint64) (ok bool)
	// sendLost tells the peer that a region is to be passed again. It does not block.
	sendLost func(index uint32)

	mu      sync.Mutex
	closed  bool
	regions map[uint32]*importedRegion
	acks    *sealed.Memory
	words   []atomic.Uint64 // of acks, nil before the first buffer and when nobody reads them any more
	unheard bool            // the peer could not map the acks, and is told by records
	uses    []uint64        // of each place
	held    int             // buffers that were not released
	// forgotten is told of buffers that nobody has released; or nil.
	forgotten func(what string, bytes int)
}

// importedRegion is a region that the peer has passed.
type importedRegion struct {
	ipc.RegionUsers
	memory  *sealed.Memory
	file    *os.File // to pass it on
	frozen  bool
	size    int
	lost    error // why it could not be mapped; then there is neither memory nor file
	held    int   // buffers in it that were not released; guarded by imports.mu
	dropped bool  // the peer has no more use for it; likewise
}

// File implements [ipc.Region].
func (r *importedRegion) File() *os.File { return r.file }

// Size implements [ipc.Region].
func (r *importedRegion) Size() int { return r.size }

// close unmaps the region. Nobody has a part of it.
func (r *importedRegion) close() {
	for _, u := range r.All() {
		u.Dropped(r)
	}
	if r.lost == nil {
		r.memory.Close()
		r.file.Close()
	}
}

// imported is the backing of a buffer that has come.
type imported struct {
	from   *imports
	region *importedRegion
	mem    []byte
	offset int
	place  uint32
	use    uint64
}

var importedPool = sync.Pool{New: func() any { return new(imported) }}

// Bytes implements [ipc.Backing].
func (b *imported) Bytes() []byte { return b.mem }

// Region implements [ipc.Backing].
func (b *imported) Region() (ipc.Region, int) { return b.region, b.offset }

// Frozen implements [ipc.Backing].
func (b *imported) Frozen() bool { return b.region.frozen }

// Free implements [ipc.Backing]. It tells the peer.
func (b *imported) Free(forgotten bool) {
	im, region, size := b.from, b.region, len(b.mem)
	im.mu.Lock()
	if im.words != nil {
		im.words[b.place].Store(b.use)
		if im.unheard {
			im.sendReleased(b.place, b.use)
		}
	}
	im.held--
	region.held--
	unmap := region.held == 0 && (region.dropped || im.closed)
	im.closeAcks()
	tell := im.forgotten
	im.mu.Unlock()
	*b = imported{}
	importedPool.Put(b)
	if unmap {
		region.close()
	}
	if forgotten && tell != nil {
		tell("buffer", size)
	}
}

// OnForgotten implements [ipc.Teller].
func (b *imported) OnForgotten() func(bytes int) {
	b.from.mu.Lock()
	defer b.from.mu.Unlock()
	tell := b.from.forgotten
	if tell == nil {
		return nil
	}
	return func(bytes int) { tell("buffer", bytes) }
}

// take makes a buffer of a handle that has come in a frame. The peer has passed the region
// before. lost says that this side was short of something, and has released the buffer: its
// message fails, and the link goes on.
func (im *imports) take(h *drivers.Handle) (b ipc.Buffer, lost, err error) {
	im.mu.Lock()
	region := im.regions[h.Region]
	if region == nil {
		im.mu.Unlock()
		im.catchUp(func() bool { return im.find(h.Region) != nil })
		im.mu.Lock()
		region = im.regions[h.Region]
	}
	defer im.mu.Unlock()
	switch {
	case im.closed:
		return b, nil, ipc.ErrDisconnected
	case region == nil:
		return b, nil, fmt.Errorf("%w: shm: a buffer in region %d, which the peer has not passed", ipc.ErrProtocol, h.Region)
	}
	if h.Offset > uint64(region.size) || h.Size > uint64(region.size)-h.Offset {
		return b, nil, fmt.Errorf("%w: shm: a buffer of %d bytes at %d of a region of %d", ipc.ErrProtocol, h.Size, h.Offset, region.size)
	}
	if h.Place >= maxPlaces {
		return b, nil, fmt.Errorf("%w: shm: a buffer in place %d of %d", ipc.ErrProtocol, h.Place, maxPlaces)
	}
	for h.Place >= uint32(len(im.uses)) {
		im.uses = append(im.uses, 0)
	}
	lost = region.lost
	if err := im.makeAcks(); err != nil {
		lost = err
	}
	released := im.uses[h.Place] // without acks all is released that has come
	if im.words != nil {
		released = im.words[h.Place].Load()
	}
	if released != im.uses[h.Place] {
		return b, nil, fmt.Errorf("%w: shm: a buffer in place %d, which has another one", ipc.ErrProtocol, h.Place)
	}
	im.uses[h.Place]++
	if lost != nil {
		if im.words != nil {
			im.words[h.Place].Store(im.uses[h.Place])
		} else {
			im.sendReleased(h.Place, im.uses[h.Place])
		}
		return b, lost, nil
	}
	im.held++
	region.held++
	own := importedPool.Get().(*imported)
	*own = imported{
		from: im, region: region, place: h.Place, use: im.uses[h.Place], offset: int(h.Offset),
		mem: region.memory.Bytes()[h.Offset : h.Offset+h.Size : h.Offset+h.Size],
	}
	return ipc.NewBuffer(own), nil, nil
}

// find returns a region that has come and was not dropped, or nil.
func (im *imports) find(index uint32) *importedRegion {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.regions[index]
}

// makeAcks makes the memory for the acks, before the first buffer. What has come before, when
// there was too little memory, was released. im.mu is held.
func (im *imports) makeAcks() error {
	if im.acks != nil {
		if im.unheard {
			im.unheard = false
			im.sendAcks(im.acks.File()) // there may be room for them now
		}
		return nil
	}
	acks, err := sealed.Create("tandem-acks", acksSize)
	if err != nil {
		return process.Shortage(fmt.Errorf("tandem: shm: memory for the acks of buffers: %w", err))
	}
	im.acks, im.words = acks, sealed.Words(acks.Bytes())
	for place, uses := range im.uses {
		im.words[place].Store(uses)
	}
	im.sendAcks(acks.File())
	return nil
}

// acksLost takes that the peer could not map the acks. It does not block. It fails if the peer says so
// too often.
func (im *imports) acksLost() (ok bool) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.words == nil {
		return true
	}
	im.unheard, ok = true, true
	for place, use := range im.uses {
		if use > 0 && im.words[place].Load() == use {
			ok = ok && im.sendReleased(uint32(place), use)
		}
	}
	return ok
}

// closeAcks unmaps the acks when nobody uses them any more. im.mu is held.
func (im *imports) closeAcks() {
	if im.closed && im.held == 0 && im.acks != nil {
		im.words = nil
		im.acks.Close()
		im.acks = nil
	}
}

// add takes a region that the peer passes, or why its descriptor was lost. It takes f over. A region
// that cannot be mapped because this side is short of something is there, and its buffers are lost;
// the peer is told, and passes it again.
func (im *imports) add(index uint32, size uint64, f *os.File, missing error) error {
	if size == 0 || size > math.MaxInt {
		im.discard(f)
		return fmt.Errorf("%w: shm: the peer passes a region of %d bytes", ipc.ErrProtocol, size)
	}
	r := &importedRegion{size: int(size), lost: missing}
	if f != nil {
		m, err := sealed.Open(f, int(size), int(size))
		switch err = badMemory("a region", err); {
		case err == nil:
			r.memory, r.file, r.frozen = m, f, m.Frozen()
		case errors.Is(err, ipc.ErrProtocol):
			im.discard(f)
			return err
		default:
			im.discard(f)
			r.lost = err
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed || index == drivers.FileRegion || len(im.regions) == maxRegions || im.regions[index] != nil {
		r.close()
		if im.closed {
			return nil
		}
		return fmt.Errorf("%w: shm: the peer passes region %d, which is there or is too many", ipc.ErrProtocol, index)
	}
	if im.regions == nil {
		im.regions = make(map[uint32]*importedRegion)
	}
	im.regions[index] = r
	if r.lost != nil {
		im.sendLost(index)
	}
	return nil
}

// drop forgets a region.
func (im *imports) drop(index uint32) error {
	im.mu.Lock()
	r := im.regions[index]
	if r == nil {
		im.mu.Unlock()
		return fmt.Errorf("%w: shm: the peer drops region %d, which it has not passed", ipc.ErrProtocol, index)
	}
	delete(im.regions, index)
	r.dropped = true
	unmap := r.held == 0
	im.mu.Unlock()
	if unmap {
		r.close()
	}
	return nil
}

// close lets go of what nobody has. What is held lives on until it is released.
func (im *imports) close() {
	im.mu.Lock()
	var unmap []*importedRegion
	if !im.closed {
		im.closed = true
		for _, r := range im.regions {
			if r.held == 0 {
				unmap = append(unmap, r)
			}
		}
		im.regions = nil
		im.closeAcks()
	}
	im.mu.Unlock()
	for _, r := range unmap {
		r.close()
	}
}
