package ipc

// topicRing has the records of a publisher that are kept, [first, next). Numbers begin with 1.
type topicRing struct {
	slots       [][]byte // record n is in slots[n%len(slots)]
	first, next uint64
	bytes       int // of the records
	keep        int // the most records, and
	keepBytes   int // the most bytes, but for the last record
}

func newTopicRing(keep, keepBytes int) topicRing {
	return topicRing{slots: make([][]byte, min(keep, 16)), first: 1, next: 1, keep: keep, keepBytes: keepBytes}
}

func (r *topicRing) len() int { return int(r.next - r.first) }

// full reports whether there is no room for a record of n bytes unless another one goes.
func (r *topicRing) full(n int) bool {
	return r.len() == r.keep || r.len() > 0 && r.bytes+n > r.keepBytes
}

// put adds a record, whose number is next. There is room for it.
func (r *topicRing) put(b []byte) {
	if r.len() == len(r.slots) {
		larger := make([][]byte, min(2*len(r.slots), r.keep))
		for n := r.first; n < r.next; n++ {
			larger[n%uint64(len(larger))] = r.at(n)
		}
		r.slots = larger
	}
	r.slots[r.next%uint64(len(r.slots))] = b
	r.bytes += len(b)
	r.next++
}

// drop forgets the oldest record. There is one.
func (r *topicRing) drop() {
	at := &r.slots[r.first%uint64(len(r.slots))]
	r.bytes -= len(*at)
	*at = nil
	r.first++
}

// at returns a record that is kept.
func (r *topicRing) at(n uint64) []byte { return r.slots[n%uint64(len(r.slots))] }
