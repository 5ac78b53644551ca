package worker

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is up to which size the heap of a worker grows without a collection, or by how
// much between two of them, whichever is more. Go begins with 4 MiB, and so a worker that
// allocates some kilobytes for each call would collect thousands of times in a second, on
// a processor that one of the two sides polls on.
const heapFloor = 32 << 20

// minHeap is Go's own floor, in bytes, with GOGC=100.
const minHeap = 4 << 20

// The metrics of package runtime that tell what the collector does.
const (
	metricPercent = "/gc/gogc:percent"
	metricLive    = "/gc/heap/live:bytes"
)

// keepHeapFloor makes the collector leave a heap alone that is smaller than heapFloor. It
// does nothing if GOGC or GOMEMLIMIT is set, in the environment or by package debug, and
// leaves GOGC alone as soon as somebody else sets it.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	if percent, _ := readHeap(); percent == 100 {
		tuneHeap(percent)
	}
}

// tuneHeap sets GOGC for the present heap, and again after each collection. ours is what
// it is now.
func tuneHeap(ours int) {
	percent, live := readHeap()
	if percent != ours {
		return // somebody else has set it
	}
	// A change stops the world for a moment, so small ones are left out.
	if next := percentFor(live); next < percent-percent/8 || next > percent+percent/8 {
		debug.SetGCPercent(next)
		ours = next
	}
	// The collector finds that nobody refers to this any more.
	runtime.AddCleanup(new([16]byte), tuneHeap, ours)
}

// percentFor returns GOGC for a heap with so many live bytes.
func percentFor(live uint64) int {
	return int(max(100, heapFloor*100/max(live, minHeap)))
}

// readHeap returns GOGC and the bytes that the last collection has found to be live.
func readHeap() (percent int, live uint64) {
	samples := []metrics.Sample{{Name: metricPercent}, {Name: metricLive}}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() != metrics.KindUint64 {
			return -1, 0 // a version of Go that does not tell
		}
	}
	return int(samples[0].Value.Uint64()), samples[1].Value.Uint64()
}
