package broadcast

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// Positions that no correct reader stores cut off that reader, and nobody else.
func TestForgedPosition(t *testing.T) {
	for _, start := range starts {
		for name, forge := range map[string]func(head, now uint64) uint64{
			"not a multiple":          func(head, now uint64) uint64 { return now + 4 },
			"odd":                     func(head, now uint64) uint64 { return now + 5 },
			"ahead of what was read":  func(head, now uint64) uint64 { return head + 8 },
			"a ring ahead":            func(head, now uint64) uint64 { return head + MinSize },
			"behind where it was":     func(head, now uint64) uint64 { return now - 8 },
			"the other end":           func(head, now uint64) uint64 { return now + 1<<63 },
			"unset again":             func(head, now uint64) uint64 { return positionUnset },
			"all ones":                func(head, now uint64) uint64 { return 1<<64 - 1 },
			"nearly the furthest one": func(head, now uint64) uint64 { return head + 1<<63 - 8 },
		} {
			seg, w := newWriter(t, MinSize, start)
			badOwn, goodOwn := newOwn(t), newOwn(t)
			bad := follow(newReader(t, seg, badOwn, Now), 100)
			good := follow(newReader(t, seg, goodOwn, Now), 100)
			badPeer, err := w.Add(badOwn, Reliable(0))
			require.NoError(t, err)
			goodPeer, err := w.Add(goodOwn, Reliable(0))
			require.NoError(t, err)
			require.NoError(t, writeSome(w, 20, 100, w.Write))
			require.NoError(t, bad.until(watchdog(t), start.Sequence+10))
			bad.r.settle()
			require.NoError(t, good.until(watchdog(t), start.Sequence+20))
			require.NoError(t, writeSome(w, 1, 100, w.Write))
			w.raise(MinSize / 4) // it looks
			require.NoError(t, badPeer.Err(), name)
			atomic.StoreUint64(bad.r.position, forge(w.head.Position, bad.r.next.Position))
			w.raise(MinSize / 4) // now: a position ahead may be a good one later
			for range 100 {
				require.NoError(t, writeSome(w, 1, 100, w.Write), name)
				require.NoError(t, good.until(watchdog(t), good.next+1))
			}
			require.ErrorIs(t, badPeer.Err(), ErrCorrupt, name)
			require.NoError(t, goodPeer.Err())
			require.Zero(t, good.gap)
		}
	}
}

// A reader that changes all of its words all the time can be added, rung for and removed, and does not
// get at others.
func TestHostileReader(t *testing.T) {
	ctx := watchdog(t)
	seg, w := newWriter(t, MinSize, Point{})
	goodOwn := newOwn(t)
	good := follow(newReader(t, seg, goodOwn, Now), 100)
	_, err := w.Add(goodOwn, Reliable(0))
	require.NoError(t, err)
	n := scaled(20000)
	var stop atomic.Bool
	var wg, reader sync.WaitGroup
	reader.Go(func() {
		if err := good.until(ctx, uint64(n)); err != nil || good.gap > 0 {
			t.Error(good.gap, err)
		}
	})
	for i := range 2 {
		wg.Go(func() {
			var p *Peer
			own := newOwn(t)
			for !stop.Load() {
				switch rand.IntN(10) {
				case 0:
					if p != nil {
						p.Remove()
						p = nil
					}
					if i == 0 { // this one keeps its header
						if err := FormatReader(own); err != nil {
							t.Error(err)
						}
					}
				case 1:
					if p == nil {
						p, _ = w.Add(own, Reliable(0))
					}
				default:
					off := rand.IntN(ReaderSize / 8)
					if i == 0 {
						off = (rand.IntN(3) + 1) * padding / 8
					}
					x := rand.Uint64()
					if rand.IntN(2) == 0 {
						x = atomic.LoadUint64(&w.published)&^inProgress - uint64(rand.IntN(100)*8)
					}
					atomic.StoreUint64(shared.At64(own, off*8), x)
				}
			}
			if p != nil {
				p.Remove()
			}
		})
	}
	require.NoError(t, writeSome(w, n, 100, func(tag byte, payload []byte) error {
		for {
			// Each of them may hold the writer up until it is removed, or tells nonsense.
			if err := w.Send(ctx, tag, payload); err != ErrFull {
				return err
			}
		}
	}))
	reader.Wait()
	stop.Store(true)
	wg.Wait()
}

// readHostile uses everything that a reader has on memory that anybody may have written. Each call
// comes back.
func readHostile(t *testing.T, seg []byte, join Join, change func()) {
	own := make([]byte, ReaderSize)
	require.NoError(t, FormatReader(own))
	r, err := NewReader(seg, own, join)
	if err != nil {
		return
	}
	size := uint64(len(seg) - ControlSize)
	var sticky error
	bytes := uint64(0)
	for range 300 {
		before := r.next
		rec, ok, err := r.Next()
		if sticky != nil {
			require.Equal(t, sticky, err)
		}
		sticky = err
		if ok {
			require.NoError(t, err)
			require.LessOrEqual(t, uint64(len(rec.Data)), size/2-8)
			bytes += uint64(len(rec.Data))
		}
		require.Zero(t, r.next.Position%8)
		require.GreaterOrEqual(t, int64(r.next.Position-before.Position), int64(0), "it goes forward only")
		r.Ready()
		r.Lost()
		if !ok {
			r.idle()
			r.arm()
			r.disarm()
		}
		change()
	}
	r.Close()
}

// FuzzBroadcastReader reads memory with arbitrary contents, which change meanwhile. The
// first bytes say how.
func FuzzBroadcastReader(f *testing.F) {
	var valid []byte
	{
		seg := make([]byte, ControlSize+MinSize)
		if err := Format(seg, Point{}); err != nil {
			f.Fatal(err)
		}
		w, err := NewWriter(seg)
		if err != nil {
			f.Fatal(err)
		}
		if err := writeSome(w, 200, 100, w.Write); err != nil {
			f.Fatal(err)
		}
		valid = seg
	}
	change := func(off uint16, v uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, off), v)
	}
	f.Add([]byte{0}, []byte{})
	f.Add([]byte{1}, change(offIntent, 1<<63))
	f.Add([]byte{1}, change(offMarks, 0))
	f.Add([]byte{2}, change(offMarks, 1<<40))
	f.Add([]byte{0}, change(offMark+16, 7))
	f.Add([]byte{2}, change(ControlSize, 0xffff_ffff_ffff_ffff))
	f.Add([]byte{0}, change(ControlSize, word(0, flagReady, 0, 0)))
	f.Add([]byte{1, 1}, append(change(offIntent, MinSize*100), change(offMarks, 77)...))
	f.Fuzz(func(t *testing.T, how, script []byte) {
		seg := make([]byte, len(valid))
		copy(seg, valid)
		join := Now
		if len(how) > 0 {
			join = []Join{Now, Oldest, At(Point{Position: 8 * uint64(how[0])})}[how[0]%3]
		}
		each := 1
		if len(how) > 1 {
			each = int(how[1])%20 + 1
		}
		// change stores the next words of the script: an offset and a value.
		change := func() {
			for range each {
				if len(script) < 10 {
					return
				}
				off := int(binary.LittleEndian.Uint16(script)) % (len(seg) / 8) * 8
				atomic.StoreUint64(shared.At64(seg, off), binary.LittleEndian.Uint64(script[2:]))
				script = script[10:]
			}
		}
		change()
		readHostile(t, seg, join, change)
	})
}

// A writer that stores anything anywhere while it is read: readers come back, and touch no other memory.
func TestHostileWriter(t *testing.T) {
	seg, w := newWriter(t, MinSize, Point{})
	require.NoError(t, writeSome(w, 200, 100, w.Write))
	good := make([]byte, len(seg))
	copy(good, seg)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			off := rand.IntN(len(seg)/8) * 8
			switch rand.IntN(5) {
			case 0:
				off = []int{offIntent, offMarks, offMark + rand.IntN(2*maxMarks)*8}[rand.IntN(3)]
			case 1: // what makes sense, so that readers come further
				for k := 0; k < len(seg); k += 8 {
					atomic.StoreUint64(shared.At64(seg, k), binary.NativeEndian.Uint64(good[k:]))
				}
				continue
			}
			x := rand.Uint64()
			if rand.IntN(2) == 0 {
				x = binary.NativeEndian.Uint64(good[off:]) + uint64(rand.IntN(64)-32)
			}
			if rand.IntN(3) == 0 {
				x = word(uint64(off-ControlSize)+uint64(rand.IntN(4)*MinSize), byte(rand.IntN(4)), byte(rand.IntN(2)), uint64(rand.IntN(200)))
			}
			atomic.StoreUint64(shared.At64(seg, off), x)
		}
	})
	for range scaled(400) {
		readHostile(t, seg, []Join{Now, Oldest, At(Point{Position: uint64(rand.IntN(2000)) * 8})}[rand.IntN(3)], func() {})
	}
	stop.Store(true)
	wg.Wait()
}

// Each word that a correct writer does not store is found, and what was read before is still there.
func TestForgedRecords(t *testing.T) {
	for name, forge := range map[string]func(seg []byte, p Point, n uint64){
		"not ready":         func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, 0, 0, n)) },
		"unknown flag":      func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, flagReady|4, 0, n)) },
		"stamp":             func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position+8, flagReady, 0, n)) },
		"too long":          func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, flagReady, 0, MinSize/2)) },
		"much too long":     func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, flagReady, 0, lengthMask)) },
		"beyond the end":    func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, flagReady, 0, MinSize-p.Position)) },
		"padding too short": func(seg []byte, p Point, n uint64) { put(seg, p, word(p.Position, flagReady|flagPad, 0, 8)) },
		"padding with tag": func(seg []byte, p Point, n uint64) {
			put(seg, p, word(p.Position, flagReady|flagPad, 1, MinSize-p.Position-8))
		},
		"intent falls": func(seg []byte, p Point, n uint64) { atomic.StoreUint64(shared.At64(seg, offIntent), p.Position-8) },
		"lapped, but the mark is behind": func(seg []byte, p Point, n uint64) {
			atomic.StoreUint64(shared.At64(seg, offIntent), p.Position+MinSize+8)
		},
		"lapped, no mark": func(seg []byte, p Point, n uint64) {
			atomic.StoreUint64(shared.At64(seg, offIntent), p.Position+MinSize+8)
			atomic.StoreUint64(shared.At64(seg, offMarks), 0)
		},
		"lapped, the mark has too high a number": func(seg []byte, p Point, n uint64) {
			atomic.StoreUint64(shared.At64(seg, offIntent), p.Position+MinSize+8)
			mark(seg, Point{p.Position + 80, p.Sequence + 11})
		},
		"lapped, the mark has a lower number": func(seg []byte, p Point, n uint64) {
			atomic.StoreUint64(shared.At64(seg, offIntent), p.Position+MinSize+8)
			mark(seg, Point{p.Position + 80, p.Sequence - 1})
		},
		"lapped, the mark is not at a word": func(seg []byte, p Point, n uint64) {
			atomic.StoreUint64(shared.At64(seg, offIntent), p.Position+MinSize+8)
			mark(seg, Point{p.Position + 84, p.Sequence + 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			seg, w := newWriter(t, MinSize, Point{Sequence: 5})
			f := follow(newReader(t, seg, nil, Now), 20)
			// Beyond the middle, so that what is left is no more than a record may have.
			require.NoError(t, writeSome(w, 120, 20, w.Write))
			require.Greater(t, w.head.Position, uint64(MinSize/2))
			require.Less(t, w.head.Position, uint64(MinSize-200))
			require.NoError(t, f.until(watchdog(t), w.head.Sequence))
			require.NoError(t, writeSome(w, 1, 20, w.Write))
			forge(seg, f.r.Point(), 5)
			require.True(t, f.r.Ready())
			_, ok, err := f.r.Next()
			require.False(t, ok)
			require.ErrorIs(t, err, ErrCorrupt)
			_, _, again := f.r.Next()
			require.Equal(t, err, again)
			require.NoError(t, f.r.Wait(watchdog(t)))
		})
	}
}

func put(seg []byte, p Point, w uint64) {
	atomic.StoreUint64(shared.At64(seg, ControlSize+int(p.Position%MinSize)), w)
}

// mark makes p the only mark.
func mark(seg []byte, p Point) {
	atomic.StoreUint64(shared.At64(seg, offMark), p.Position)
	atomic.StoreUint64(shared.At64(seg, offMark+8), p.Sequence)
	atomic.StoreUint64(shared.At64(seg, offMarks), 1)
}

func TestForgedHeader(t *testing.T) {
	for off, v := range map[int]uint64{offMagic: readerMagic, offVersion: 2, offSize: MinSize * 2, offStart: 4} {
		seg, _ := newWriter(t, MinSize, Point{})
		atomic.StoreUint64(shared.At64(seg, off), v)
		_, err := NewReader(seg, nil, Now)
		require.ErrorIs(t, err, ErrLayout)
		_, err = NewWriter(seg)
		require.ErrorIs(t, err, ErrLayout)
	}
	seg, w := newWriter(t, MinSize, Point{})
	for _, bad := range [][]byte{nil, seg[:ControlSize-8], seg[:ControlSize], seg[:len(seg)-8], append(seg, make([]byte, 8)...)[8:]} {
		_, err := NewReader(bad, nil, Now)
		require.ErrorIs(t, err, ErrLayout)
		require.ErrorIs(t, Format(bad, Point{}), ErrLayout)
	}
	require.ErrorIs(t, Format(seg, Point{Position: 4}), ErrLayout)
	require.NoError(t, w.Write(1, []byte("there is a record")))
	_, err := NewWriter(seg)
	require.ErrorIs(t, err, ErrLayout, "it has been written")
	for _, at := range []Point{{Position: 4}, {Position: 1 << 20}} {
		_, err := NewReader(seg, nil, At(at))
		require.ErrorIs(t, err, ErrLayout)
	}
	own := newOwn(t)
	_, err = NewReader(seg, own, Now)
	require.NoError(t, err)
	_, err = NewReader(seg, own, Now)
	require.ErrorIs(t, err, ErrLayout, "it has a reader")
}

// A writer that shows a record to Wait, and none to Next, keeps nobody longer than its context.
func TestWaitInVain(t *testing.T) {
	seg, w := newWriter(t, MinSize, Point{})
	r := newReader(t, seg, nil, Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var err error
	for i := 0; err == nil; i++ {
		require.Less(t, i, 1000)
		put(seg, r.Point(), word(0, flagReady, 0, 0))
		err = r.Wait(ctx)
		put(seg, r.Point(), 0)
		_, ok, err := r.Next()
		require.False(t, ok)
		require.NoError(t, err)
	}
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, w.Write(1, nil))
	require.NoError(t, r.Wait(ctx), "a record comes first")
}
