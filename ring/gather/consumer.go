package gather

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/ring"
)

var (
	// ErrRemoved reports that a producer was taken out by [Consumer.Remove].
	ErrRemoved = errors.New("tandem: gather: removed")

	// ErrClosed reports that the [Consumer] was closed.
	ErrClosed = errors.New("tandem: gather: closed")

	// ErrPresent reports that there is a producer of the same ID.
	ErrPresent = errors.New("tandem: gather: a producer of this ID is there")
)

// The quantum of a turn, unless SetQuantum says otherwise.
const (
	DefaultRecords = 64
	DefaultBytes   = 64 << 10
)

// A Consumer reads the records of many producers, in turns:
//
//	for {
//		r, id, ok, err := g.Next()
//		switch {
//		case err != nil: // producer id is out; others go on
//			forget(id, err)
//		case ok:
//			handle(id, r.Tag, r.Data)
//		default:
//			if err := g.Wait(ctx); err != nil {
//				return err
//			}
//		}
//	}
//
// ID is how the program names its producers: a number, a string, or a pointer to what it
// knows of one.
//
// The zero Consumer has no producers and is ready to use. It must not be copied. It is for one
// goroutine at a time, its reader, except for Add, Remove and Interrupt, which any goroutine
// may call.
type Consumer[ID comparable] struct {
	group   ring.Group
	sources []*source[ID]
	current *source[ID]   // whose turn it is, or was; nil if it has left
	at      int           // the index of the next turn
	asked   int           // how many turns in a row were empty
	out     []*source[ID] // were removed, and are to be reported

	records, bytes               int // left of the turn
	quantumRecords, quantumBytes int // 0 for the defaults

	changed atomic.Bool // there is something in what follows

	mu      sync.Mutex
	present map[ID]*source[ID] // added and not reported
	added   []*source[ID]
	removed []*source[ID]
	closed  bool
}

// source is one producer's end.
type source[ID comparable] struct {
	id   ID
	ring *ring.Consumer

	out      bool   // it is in Consumer.out
	draining bool   // an interrupt was noticed
	from     uint64 // the position at which that was
}

// SetQuantum bounds a turn: when so many records were read in a row from one producer, or so
// many bytes of payload, it is another one's turn. The first record of a turn is read however
// large it is. It panics if either is not positive.
func (g *Consumer[ID]) SetQuantum(records, bytes int) {
	if records <= 0 || bytes <= 0 {
		panic("tandem: gather: a quantum without records or bytes")
	}
	g.quantumRecords, g.quantumBytes = records, bytes
}

// quantum returns what a turn has.
func (g *Consumer[ID]) quantum() (records, bytes int) {
	if g.quantumRecords == 0 {
		return DefaultRecords, DefaultBytes
	}
	return g.quantumRecords, g.quantumBytes
}

// SetWait says how Wait waits for data. The default is [ring.WaitAdaptive]. Which strategy
// the rings themselves have does not matter.
func (g *Consumer[ID]) SetWait(w ring.Wait) { g.group.SetWait(w) }

// Add adds a producer by the consumer of its ring. From now on c is g's, until id is reported
// to be out: the program calls nothing of it but Interrupt and [ring.Lease.Release]. Its
// memory must stay as long.
//
// Errors are [ErrPresent], also while the id was removed and that is not reported yet, and
// [ErrClosed].
func (g *Consumer[ID]) Add(c *ring.Consumer, id ID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return ErrClosed
	case g.present[id] != nil:
		return ErrPresent
	}
	if g.present == nil {
		g.present = make(map[ID]*source[ID])
	}
	s := &source[ID]{id: id, ring: c}
	g.present[id] = s
	g.added = append(g.added, s)
	g.change()
	return nil
}

// Remove takes a producer out, and reports whether it was there. The reader notices it between
// two turns, or in Wait: then Next reports id with [ErrRemoved], and only then the memory is
// not used any more. What was not read by then stays unread. To have it read first, call
// [ring.Consumer.Interrupt] instead.
func (g *Consumer[ID]) Remove(id ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.present[id]
	if s == nil {
		return false
	}
	g.removed = append(g.removed, s)
	g.change()
	return true
}

// change tells the reader that something was added or removed. The caller holds the lock.
func (g *Consumer[ID]) change() {
	g.changed.Store(true)
	g.group.Wake()
}

// Len returns how many producers there are: added, and not reported to be out. Any goroutine
// may call it.
func (g *Consumer[ID]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.present)
}

// Lease makes the record last returned by Next or Message stay valid, see
// [ring.Consumer.Lease]. Leases of a producer's records must be released before its memory
// goes.
func (g *Consumer[ID]) Lease() ring.Lease {
	if g.current == nil {
		return ring.Lease{}
	}
	return g.current.ring.Lease()
}

// Wait blocks until Next has something: a record, or a producer that is out. It releases the last
// record. It may return early for no reason. Errors are the one of [Consumer.Interrupt],
// [ErrClosed], whichever came first, and ctx's; they come only when there is nothing to read.
func (g *Consumer[ID]) Wait(ctx context.Context) error {
	if g.changed.Load() || len(g.out) > 0 {
		return nil
	}
	return g.group.Wait(ctx)
}

// Interrupt makes a Wait that is blocked, and every later one that finds nothing, return err,
// which must not be nil. Only the first Interrupt's err counts. Any goroutine may call it.
func (g *Consumer[ID]) Interrupt(err error) { g.group.Interrupt(err) }

// Close takes all producers out without a report, and makes Wait return [ErrClosed]. Only the
// reader may call it, or who knows that the reader has stopped. After that the rings are the
// program's again: g does not touch them, and their memory may go. Closing again does nothing.
func (g *Consumer[ID]) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, s := range g.sources {
		g.group.Remove(s.ring)
	}
	g.sources, g.current, g.out, g.records, g.asked = nil, nil, nil, 0, 0
	g.present, g.added, g.removed = nil, nil, nil
	g.changed.Store(false)
	g.group.Interrupt(ErrClosed)
}
