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

// The metrics of package runtime that tell what the collector does, and from what it
// computes when to collect next.
const (
	metricPercent = "/gc/gogc:percent"
	metricLive    = "/gc/heap/live:bytes"
	metricStacks  = "/gc/scan/stack:bytes"
	metricGlobals = "/gc/scan/globals:bytes"
)

// keepHeapFloor makes the collector leave a heap alone that is smaller than heapFloor. It
// does nothing if GOGC or GOMEMLIMIT is set, in the environment or by package debug. If
// somebody else sets GOGC later, it stays so until it is set back.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	if percent, _ := readHeap(); percent == 100 {
		tuneHeap(percent)
	}
}

// tuneHeap sets GOGC for the present heap, and again after each collection. ours is what
// it is now, unless somebody else has set it.
func tuneHeap(ours int) {
	percent, base := readHeap()
	// A change stops the world for a moment, so small ones are left out.
	if next := percentFor(base); percent == ours && (next < percent-percent/8 || next > percent+percent/8) {
		debug.SetGCPercent(next)
		ours = next
	}
	// The collector finds that nobody refers to this any more.
	runtime.AddCleanup(new([16]byte), tuneHeap, ours)
}

// percentFor returns GOGC for so many bytes that the collector has to look at.
func percentFor(base uint64) int {
	return int(max(100, heapFloor*100/max(base, minHeap)))
}

// readHeap returns GOGC and what the heap may grow by with GOGC=100: the bytes that the
// last collection has found to be live, the stacks and the globals.
func readHeap() (percent int, base uint64) {
	samples := []metrics.Sample{{Name: metricPercent}, {Name: metricLive}, {Name: metricStacks}, {Name: metricGlobals}}
	metrics.Read(samples)
	for i, s := range samples {
		if s.Value.Kind() != metrics.KindUint64 {
			return -1, 0 // a version of Go that does not tell
		}
		if i > 0 {
			base += s.Value.Uint64()
		}
	}
	return int(samples[0].Value.Uint64()), base
}
