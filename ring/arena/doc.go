// Package arena hands out blocks of shared memory that one process writes and others can
// read: memory to fill once and pass on by region and offset, without a copy.
//
// # Layout
//
// An arena consists of regions, each a memory file of package sealed. Only the process that
// made the arena can write them; the kernel sees to that. Regions are of two kinds:
//
//	region of 4 MiB for blocks of up to 1 MiB       region of one large block
//	+--------+--------+-----------------+-----+     +----------------------------+
//	| slab   | slab   | slab            |     |     | block                      |
//	| 64 KiB | 64 KiB | 320 KiB         | ... |     | n, rounded up to 64 KiB    |
//	+--------+--------+-----------------+-----+     +----------------------------+
//	 128 128 |        | 80K 80K 80K 80K |
//	 128 ... |        |                 |
//	units of 64 KiB; a slab is a few of them in a row
//
// A slab has blocks of one size class. There are 52: 64, 128, 192 and 256 bytes, and then
// four for each doubling (320, 384, 448, 512, 640, and so on) up to 1 MiB. So at most 63
// bytes or a fifth of a block are more than was asked for. All blocks begin at multiples of
// 64. A large block has a region of its own. When it is freed it waits for another block that
// fills at least four fifths of it.
//
// What the allocator knows about its blocks lies in memory of Go's. A region has nothing but
// what users put into blocks.
//
// # Who can read what
//
// Memory that the system has just given is zero. A block that is used again holds what it
// held. A process that was given the descriptor of a region can read all of it: all blocks
// that lie there now, that did, and that will. So an arena is for processes that may read all
// that is put into it. For others, use an arena of their own.
//
// The maker can write a block at any time, also while others read it.
//
// # Giving memory back
//
// A region without blocks is given back to the system after a while ([Options].Idle), when
// others need the room, by [Arena.Trim], and by [Arena.Close]. There is a timer only while
// there is something to give back, or blocks have been handed out within the last two seconds.
//
// A process that has a region open or mapped keeps its memory, which no longer counts against
// the arena's limit then. [Arena.OnDrop] is for telling it that it can let go.
//
// # Systems without memory files
//
// There, blocks are plain memory of Go's, and [Block.Region] is nil. Nothing else differs.
package arena
