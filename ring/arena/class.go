package arena

import "math/bits"

const (
	line       = 64                    // blocks begin at multiples of it
	unit       = 64 << 10              // what slabs are made of
	regionSize = unitsMax * unit       // of a region of slabs, if the limit allows
	unitsMax   = 64                    // bits of Region.units
	maxSmall   = 1 << 20               // larger blocks have a region of their own
	numClasses = 52                    // those up to maxSmall
	hugePage   = 2 << 20               // what sizes are multiples of with HugePages
	maxWaste   = unit / 16             // what a slab may leave unused for each unit of it
	unitsTried = maxSmall / unit       // the longest slab
	_          = uint(unitsTried - 16) // a block of maxSmall fits
)

// classOf returns the class of blocks of n bytes, 0 to maxSmall.
func classOf(n int) int {
	last := max(n-1, 0) / line // the number of the block's last line
	if last < 4 {
		return last
	}
	// The three highest bits, 100 to 111, tell the four classes of a doubling.
	shift := bits.Len(uint(last)) - 3
	return 4*shift + last>>shift
}

// classSize returns the size of a class's blocks.
func classSize(class int) int {
	if class < 4 {
		return (class + 1) * line
	}
	shift := class/4 - 1
	return (class%4 + 5) << shift * line
}

// slabUnits returns how many units a slab for blocks of a size has: the fewest that leave
// little unused.
func slabUnits(size int) int {
	least := (size + unit - 1) / unit
	for units := least; units <= unitsTried; units++ {
		if units*unit%size <= units*maxWaste {
			return units
		}
	}
	return least
}

// run finds n bits in a row that are set, and returns the lowest such bits.
func run(set uint64, n int) (bitmask uint64, first int, ok bool) {
	starts := set // where runs of have bits begin
	for have := 1; have < n; {
		more := min(have, n-have)
		starts &= starts >> more
		have += more
	}
	if starts == 0 {
		return 0, 0, false
	}
	first = bits.TrailingZeros64(starts)
	return firstBits(n) << first, first, true
}

// firstBits returns a word whose n lowest bits are set, 1 to 64.
func firstBits(n int) uint64 { return ^uint64(0) >> (64 - n) }
