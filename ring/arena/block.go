package arena

// A Block is memory of an arena. It is its holder's from Alloc to Free, and no longer: the
// arena uses the same Block again for another holder.
//
// Bytes, Region and Offset may be called by several goroutines at once; what lies in the
// bytes is for the holders to agree on.
type Block struct {
	slab  *slab
	born  int64 // of the arena's clock
	n     int   // -1 if it is free
	index int32 // in the slab
	next  int32 // among the slab's free blocks: an index, or -1
}

// Bytes returns the block's memory, as many bytes as were asked for. Its contents are those
// of the block's last holder, or zero.
func (b *Block) Bytes() []byte {
	off := b.Offset()
	return b.slab.region.data[off : off+b.n : off+b.n]
}

// Region returns the region that the block lies in. It is nil on systems without memory
// files.
func (b *Block) Region() *Region {
	if r := b.slab.region; r.mem != nil {
		return r
	}
	return nil
}

// Offset returns where in its region the block begins: a multiple of 64.
func (b *Block) Offset() int { return b.slab.off + int(b.index)*b.slab.size }

// Free gives the block back to its arena, for others. Nobody may use it any more. To free it
// again is a bug in the program: Free panics if the block is still free then, and takes it
// from its next holder if not.
func (b *Block) Free() {
	if b.slab.class == nil {
		b.slab.arena.freeLarge(b)
		return
	}
	b.slab.class.put(b)
}

func panicFreedTwice() { panic("tandem: arena: a block was freed twice") }
