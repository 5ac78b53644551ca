package ring

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests in this file play the peer: they write into its segment what no
// correct peer writes.

func TestForgedRecords(t *testing.T) {
	const start = 4160
	put := func(mem []byte, pos uint64, w uint64) {
		*u64At(mem, ControlSize+int(pos%MinSize)) = w
	}
	first := func(total uint64, more ...byte) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, total), more...)
	}
	forge := func(flags, tag byte, n uint64) func([]byte, *Producer) {
		return func(mem []byte, _ *Producer) { put(mem, start, word(start, flags, tag, n)) }
	}
	pieces := func(list ...any) func([]byte, *Producer) {
		return func(_ []byte, p *Producer) {
			for i := 0; i < len(list); i += 2 {
				if err := p.appendSlow(list[i].(byte), 9, list[i+1].([]byte), nil); err != nil {
					panic(err)
				}
			}
			p.Publish()
		}
	}
	const begin, mid, end = byte(flagMore), byte(flagMore | flagCont), byte(flagCont)
	for _, tt := range []struct {
		name  string
		forge func(mem []byte, p *Producer)
		want  string
	}{
		{"length", forge(flagReady, 0, 1<<32-1), "corrupt at position 4160: record of 4294967295 bytes, largest allowed 2040"},
		{"length by one", forge(flagReady, 0, 2041), "record of 2041 bytes, largest allowed 2040"},
		{"not ready", forge(0, 0, 8), "want 0 or the ready flag"},
		{"reserved flag", forge(flagReady|0x40, 0, 8), "record flags 0x41, want none besides 0xf"},
		{"stamp", func(mem []byte, _ *Producer) { put(mem, start, word(start+8, flagReady, 0, 8)) }, "record stamp 0x209, want 0x208"},
		{"stale word", func(mem []byte, _ *Producer) { put(mem, start, word(start-MinSize, flagReady, 0, 8)) }, "record stamp 0x8, want 0x208"},
		{"ones", func(mem []byte, _ *Producer) { put(mem, start, 1<<64-1) }, "record flags 0xff"},
		{"short padding", forge(flagReady|flagPad, 0, 8), "padding of 8 bytes, want 4024 up to the end of the ring"},
		{"padding with tag", forge(flagReady|flagPad, 3, 8), "padding with flags 0x3 and tag 3, want flags 0x3 and tag 0"},
		{"padding of a message", forge(flagReady|flagPad|flagMore, 0, 8), "padding with flags 0x7"},
		{"piece without begin", pieces(end, []byte("x")), "piece of a message without its begin"},
		{"middle without begin", pieces(mid, []byte("x")), "piece of a message without its begin"},
		{"total", pieces(begin, first(1<<62)), "message of 4611686018427387904 bytes, largest allowed 10000"},
		{"total of ones", pieces(begin, first(1<<64-1)), "message of 18446744073709551615 bytes, largest allowed 10000"},
		{"no total", pieces(begin, []byte("1234567")), "first piece of 7 bytes, want at least 8"},
		{"too much", pieces(begin, first(3, 1, 2), end, []byte("34")), "pieces of 4 bytes in a message of 3"},
		{"too much at once", pieces(begin, first(3, 1, 2, 3, 4)), "pieces of 4 bytes in a message of 3"},
		{"too little", pieces(begin, first(30, 1, 2), end, []byte("34")), "last piece ends at 4 bytes of a message of 30"},
		{"for ever", pieces(begin, first(0)), "more pieces announced of a message that has its 0 bytes"},
		{"never last", pieces(begin, first(2, 1), mid, []byte("2")), "more pieces announced of a message that has its 2 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newSegment(t, MinSize, start), newSegment(t, MinSize, 0)
			p, _, err := Join(a, b)
			require.NoError(t, err)
			_, c, err := Join(b, a)
			require.NoError(t, err)
			c.SetMaxMessage(10000)
			tt.forge(a, p)
			require.True(t, c.Ready())
			_, ok, err := c.Message()
			require.False(t, ok)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, tt.want)
			require.True(t, strings.HasPrefix(err.Error(), "tandem: ring: corrupt at position "), err)

			// It stays, whatever the peer does to mend it.
			for _, w := range []uint64{0, word(c.next, flagReady, 0, 8)} {
				put(a, c.next, w)
				c.Release()
				c.Arm()
				c.Disarm()
				_, _, again := c.Next()
				require.Same(t, err, again)
				_, _, again = c.Message()
				require.Same(t, err, again)
				require.True(t, c.Ready())
				require.NoError(t, c.Wait(context.Background()))
			}
		})
	}
}

func TestTagMayNotChangeWithinMessage(t *testing.T) {
	p, c := newPair(t, MinSize, 0)
	require.NoError(t, p.appendSlow(flagMore, 1, binary.LittleEndian.AppendUint64(nil, 5), []byte("ab")))
	require.NoError(t, p.appendSlow(flagCont, 2, []byte("cde"), nil))
	p.Publish()
	_, _, err := c.Message()
	require.ErrorContains(t, err, "piece with tag 2 in a message with tag 1")
}

// TestForgedPadding: padding at the begin of the ring, and records that run past
// its end.
func TestForgedPadding(t *testing.T) {
	for _, tt := range []struct {
		start, word uint64
		want        string
	}{
		{MinSize * 2, word(MinSize*2, flagReady|flagPad, 0, MinSize-8), "record of 4088 bytes, largest allowed 2040"},
		{MinSize - 16, word(MinSize-16, flagReady, 0, 9), "record of 9 bytes, largest before the end of the ring 8"},
		{MinSize - 8, word(MinSize-8, flagReady, 0, 1), "record of 1 bytes, largest before the end of the ring 0"},
	} {
		a, b := newSegment(t, MinSize, tt.start), newSegment(t, MinSize, 0)
		_, c, err := Join(b, a)
		require.NoError(t, err)
		*u64At(a, ControlSize+int(tt.start%MinSize)) = tt.word
		_, _, err = c.Next()
		require.ErrorContains(t, err, tt.want)
	}
	// Padding that is valid, with nothing behind it: nothing to read.
	a, b := newSegment(t, MinSize, MinSize-8), newSegment(t, MinSize, 0)
	_, c, err := Join(b, a)
	require.NoError(t, err)
	*u64At(a, ControlSize) = 0
	*u64At(a, ControlSize+MinSize-8) = word(MinSize-8, flagReady|flagPad, 0, 0)
	_, ok, err := c.Next()
	require.NoError(t, err)
	require.False(t, ok)
}

// TestOverrun: a producer that writes on although its consumer holds leases.
func TestOverrun(t *testing.T) {
	a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
	_, c, err := Join(b, a)
	require.NoError(t, err)
	pos := uint64(0)
	for range 100 {
		*u64At(a, ControlSize+int(pos%MinSize)) = word(pos, flagReady, 0, 504)
		pos += 512
		var r Record
		var ok bool
		r, ok, err = c.Next()
		if err != nil {
			break
		}
		require.True(t, ok)
		require.Len(t, r.Data, 504)
		c.Lease()
	}
	require.EqualError(t, err, "tandem: ring: corrupt at position 3584: record of 504 bytes, but only 504 bytes of the ring are free")
}

func TestForgedConsumerPosition(t *testing.T) {
	const start = 8192
	for _, tt := range []struct {
		name string
		pos  uint64
		want string
	}{
		{"ahead", start + 3000, "consumer position 11192, want a multiple of 8 from 8192 to 11184"},
		{"far ahead", start + 1<<40, "want a multiple of 8 from 8192 to 11184"},
		{"behind", start - 8, "consumer position 8184"},
		{"ones", 1<<64 - 1, "consumer position 18446744073709551615"},
		{"zero", 0, "consumer position 0"},
		{"unaligned", start + 4, "consumer position 8196"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newSegment(t, MinSize, start), newSegment(t, MinSize, 0)
			p, _, err := Join(a, b)
			require.NoError(t, err)
			_, _, err = Join(b, a)
			require.NoError(t, err)
			for range 2 {
				require.NoError(t, p.Write(1, make([]byte, 1488)))
			}
			*u64At(b, offConsumerPosition) = tt.pos
			_, err = p.TryClaim(1500)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, tt.want)
			*u64At(b, offConsumerPosition) = start + 1496
			for _, again := range []error{
				p.Write(1, nil),
				p.Send(context.Background(), 1, nil, nil),
				p.Send(context.Background(), 1, nil, make([]byte, 5000)),
				p.WaitSpace(context.Background(), 0),
			} {
				require.Same(t, err, again)
			}
		})
	}
}

func TestForgedHeader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		forge func(seg []byte)
		want  string
	}{
		{"magic", func(s []byte) { s[0] = 'x' }, "remote segment has magic 0x31676e6972646e78, want 0x31676e6972646e74"},
		{"version", func(s []byte) { s[8] = 2 }, "remote segment has layout version 2, want 1"},
		{"size", func(s []byte) { *u64At(s, offSize) = 8192 }, "remote segment says its ring has 8192 bytes, but it has 4096"},
		{"size of ones", func(s []byte) { *u64At(s, offSize) = 1<<64 - 1 }, "18446744073709551615 bytes, but it has 4096"},
		{"start", func(s []byte) { *u64At(s, offStart) = 4 }, "remote segment starts at position 4, want a multiple of 8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
			tt.forge(b)
			_, _, err := Join(a, b)
			require.ErrorIs(t, err, ErrLayout)
			require.ErrorContains(t, err, tt.want)
			_, _, err = Join(b, a)
			require.ErrorContains(t, err, strings.ReplaceAll(tt.want, "remote", "local"))
		})
	}
	good := newSegment(t, MinSize, 0)
	for _, bad := range [][]byte{nil, good[:4096], good[:8000], good[padding:], make([]byte, 3*4096)} {
		_, _, err := Join(good, bad)
		require.ErrorIs(t, err, ErrLayout, fmt.Sprint(len(bad)))
	}
}

// FuzzConsumer feeds arbitrary bytes to every way of reading.
func FuzzConsumer(f *testing.F) {
	a, b := newSegment(f, MinSize, 0), newSegment(f, MinSize, 0)
	p, _, err := Join(a, b)
	require.NoError(f, err)
	for _, n := range []int{0, 5, 100, 1000} {
		require.NoError(f, p.Append(byte(n), fill(n, 1)))
	}
	p.Publish()
	f.Add(a[ControlSize:ControlSize+2048], uint64(0), uint8(0))
	f.Add(binary.NativeEndian.AppendUint64(nil, word(MinSize-8, flagReady|flagPad, 0, 0)), uint64(MinSize-8), uint8(1))
	f.Add(binary.NativeEndian.AppendUint64(nil, word(0, flagReady|flagMore, 1, 8)), uint64(0), uint8(2))
	f.Fuzz(func(t *testing.T, content []byte, start uint64, how uint8) {
		start &^= align - 1
		a, b := make([]byte, ControlSize+MinSize), make([]byte, ControlSize+MinSize)
		require.NoError(t, Format(a, start))
		require.NoError(t, Format(b, 0))
		_, c, err := Join(b, a)
		require.NoError(t, err)
		c.SetMaxMessage(1 << 16)
		ring := a[ControlSize:]
		for i := range content { // from the first record on
			ring[(start+uint64(i))%MinSize] = content[i]
		}
		inside := func(b []byte) {
			if len(b) > 0 {
				at := address(b) - address(ring)
				require.Less(t, at, uintptr(MinSize))
				require.LessOrEqual(t, at+uintptr(len(b)), uintptr(MinSize))
				require.Equal(t, len(b), cap(b))
			}
		}
		var leases []Lease
		for range 2 * MinSize / align {
			var ok bool
			if how&1 == 0 {
				var r Record
				r, ok, err = c.Next()
				inside(r.Data)
			} else {
				var m Message
				m, ok, err = c.Message()
				if m.Owned {
					require.LessOrEqual(t, len(m.Data), 1<<16)
				} else {
					inside(m.Data)
				}
			}
			if !ok || err != nil {
				break
			}
			if how&2 != 0 {
				leases = append(leases, c.Lease())
			}
		}
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		for _, l := range leases {
			l.Release()
		}
	})
}

// A peer that sends pieces of messages for ever, and never a whole one, keeps nobody in
// Message.
func TestMessageReturnsThoughPiecesNeverEnd(t *testing.T) {
	total := binary.LittleEndian.AppendUint64(nil, 100)
	for name, piece := range map[string]struct {
		flags byte
		data  []byte
	}{"empty pieces": {flagMore | flagCont, nil}, "begins": {flagMore, total}} {
		t.Run(name, func(t *testing.T) {
			a, b := newSegment(t, 64<<10, 0), newSegment(t, MinSize, 0)
			p, _, err := Join(a, b)
			require.NoError(t, err)
			_, c, err := Join(b, a)
			require.NoError(t, err)
			require.NoError(t, p.appendSlow(flagMore, 1, total, nil))
			const pieces = 2000
			for range pieces {
				require.NoError(t, p.appendSlow(piece.flags, 1, piece.data, nil))
			}
			require.NoError(t, p.appendSlow(0, 2, []byte("whole"), nil))
			p.Publish()
			calls := 0
			for ; ; calls++ {
				m, ok, err := c.Message()
				require.NoError(t, err)
				if ok {
					require.Equal(t, "whole", string(m.Data))
					break
				}
				require.True(t, c.Ready(), "there is more")
				require.True(t, c.Spin(), "nobody is to sleep")
			}
			require.GreaterOrEqual(t, calls, pieces/maxPieces, "a call takes so many pieces at most")
		})
	}
}
