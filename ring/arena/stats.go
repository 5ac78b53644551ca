package arena

import (
	"slices"
	"time"
)

// Stats are what an arena has at one moment. While others allocate and free, the sums of
// classes are each of a slightly different moment.
type Stats struct {
	// Limit is the most that Reserved can be, in bytes.
	Limit int64
	// Regions is how many there are, and Reserved how many bytes they have.
	Regions  int
	Reserved int64
	// Blocks is how many blocks are handed out, Asked how many bytes they were asked to
	// have, and Used how many they take up.
	Blocks      int
	Asked, Used int64
	// Free is Reserved less Used.
	Free int64
	// Oldest is for how long the block that was handed out first has been, or 0 if there is
	// none. It may be up to a second more than that, and a little more under load.
	Oldest time.Duration
	// Classes has the size classes that have memory, the smallest first, and then, if there
	// are any, the large blocks as one class.
	Classes []ClassStats
}

// ClassStats are what a size class has.
type ClassStats struct {
	// Size is the bytes that a block takes up, or 0 for large blocks.
	Size int
	// Blocks is how many are handed out, and Asked how many bytes they were asked to have.
	Blocks int
	Asked  int64
	// Free is how many more there are without new memory for the class.
	Free int
}

// Stats returns what the arena has. It looks at the record of each block that it has handed
// out memory for, about a millisecond for a million of them.
func (a *Arena) Stats() Stats {
	st := Stats{Limit: a.limit}
	now := a.now()
	oldest := now
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		slabs := slices.Clone(c.slabs)
		cs := ClassStats{Size: c.size, Blocks: c.used, Asked: c.asked}
		for _, s := range slabs {
			cs.Free += len(s.blocks)
		}
		cs.Free -= c.used
		c.mu.Unlock()
		if len(slabs) == 0 {
			continue
		}
		for _, s := range slabs {
			c.mu.Lock() // others may have it in between
			oldest = s.oldest(oldest)
			c.mu.Unlock()
		}
		st.add(cs, int64(cs.Blocks)*int64(c.size))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := &a.large; len(l.slabs) > 0 {
		for _, s := range l.slabs {
			oldest = s.oldest(oldest)
		}
		st.add(ClassStats{Blocks: l.used, Asked: l.asked, Free: len(l.idle)}, l.rounded)
	}
	st.Regions = len(a.regions) + len(a.large.slabs)
	st.Reserved = a.reserved
	st.Free = st.Reserved - st.Used
	st.Oldest = time.Duration(now - oldest)
	return st
}

func (st *Stats) add(c ClassStats, used int64) {
	st.Classes = append(st.Classes, c)
	st.Blocks += c.Blocks
	st.Asked += c.Asked
	st.Used += used
}
