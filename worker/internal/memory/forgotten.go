package memory

import (
	"log/slog"
	"sync/atomic"
)

// Forgotten counts buffers and files that have come, and that nobody has released before the garbage
// collector found them. It outlives the links that they came by. A nil one counts nothing.
type Forgotten struct {
	log *slog.Logger // is told of each, if it is not nil
	n   atomic.Uint64
}

// Count returns how many there were.
func (f *Forgotten) Count() uint64 { return f.n.Load() }

// Tell takes that one was forgotten: a "buffer" of so many bytes, or a "file".
func (f *Forgotten) Tell(what string, bytes int) {
	if f == nil {
		return
	}
	switch {
	case f.log == nil:
	case what == "buffer":
		f.log.Warn("tandem: a received buffer was forgotten, and is released by the garbage collector", "bytes", bytes)
	default:
		f.log.Warn("tandem: a received " + what + " was forgotten, and is closed by the garbage collector")
	}
	f.n.Add(1) // who sees that sees the log, too
}
