package broadcast

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/shared"
)

// The words are where layout.go draws them.
func TestLayout(t *testing.T) {
	require.Equal(t, 0x2000, ControlSize)
	require.Equal(t, 0x1000, ReaderSize)
	require.Equal(t, 0x400, offMark)
	require.Equal(t, 0x1000, offPlace)
	require.LessOrEqual(t, offMark+maxMarks*markSize, offPlace)
	require.LessOrEqual(t, offPlace+MaxReaders*placeSize, ControlSize)

	start := Point{Position: 64, Sequence: 9}
	seg, w := newWriter(t, MinSize, start)
	own := newOwn(t)
	r := newReader(t, seg, own, Now)
	p, err := w.Add(own, Reliable(0))
	require.NoError(t, err)
	require.Equal(t, "tndbcst1", string(seg[:8]))
	for off, want := range map[int]uint64{0x08: 1, 0x10: MinSize, 0x18: 64, 0x20: 9, 0x80: 64 + 8, 0x100: 1, 0x400: 64, 0x408: 9, 0x1000: p.id, 0x1008: placeReliable} {
		require.Equal(t, want, *shared.At64(seg, off), "%#x", off)
	}
	require.Same(t, shared.At64(seg, 0x80), w.intent)
	require.Same(t, shared.At64(seg, 0x80), r.intent)
	require.Same(t, shared.At32(seg, 0x180), r.sleep.Bell)
	require.Same(t, shared.At32(seg, 0x200), w.space)
	require.Same(t, shared.At32(seg, 0x200), r.wanted)
	bell := *shared.At32(seg, 0x180)
	w.ringAll()
	require.Equal(t, bell+1, *shared.At32(seg, 0x180))

	require.Equal(t, "tndbrdr1", string(own[:8]))
	require.EqualValues(t, 1, *shared.At64(own, 0x08))
	require.Equal(t, p.id, *shared.At64(own, 0x10))
	require.Same(t, shared.At64(own, 0x80), r.position)
	require.Same(t, shared.At64(own, 0x80), p.seen)
	require.Same(t, shared.At32(own, 0x100), r.waiting)
	require.Same(t, shared.At32(own, 0x100), p.waiting)
	require.Same(t, shared.At32(own, 0x180), r.spaceBell)
	require.Same(t, shared.At32(own, 0x180), p.sleep.Bell)

	require.NoError(t, w.Write(7, []byte("123456789")))
	require.Equal(t, word(64, flagReady, 7, 9), *shared.At64(seg, 0x2000+64))
	require.Equal(t, "123456789", string(seg[0x2000+72:][:9]))
	require.Zero(t, *shared.At64(seg, 0x2000+64+24), "where the next record goes")
}

func TestSegmentSize(t *testing.T) {
	n, err := SegmentSize(1 << 20)
	require.NoError(t, err)
	require.Equal(t, ControlSize+1<<20, n)
	for _, bad := range []int{-1, 0, 1, MinSize / 2, MinSize + 8, MinSize * 3, MaxSize + 8} {
		_, err := SegmentSize(bad)
		require.ErrorIs(t, err, ErrLayout)
	}
}

// Intent and marks: a reader can always join, the newest mark is one that is kept, and a
// reader that has read all has never been lapped, whatever the writer does.
func TestMarks(t *testing.T) {
	for _, start := range starts {
		for _, max := range []int{0, 8, 100, MinSize/2 - 8} {
			seg, w := newWriter(t, MinSize, start)
			for range 500 {
				require.NoError(t, writeSome(w, 1, max, func(tag byte, payload []byte) error {
					_, err := w.TryClaim(len(payload)) // intent is stored, and nothing written yet
					require.NoError(t, err)
					require.LessOrEqual(t, w.limit-w.head.Position, w.size)
					require.LessOrEqual(t, w.limit-w.mark.Position, w.size)
					for _, join := range []Join{Now, Oldest} {
						r := newReader(t, seg, nil, join)
						at := r.Point()
						_, ok, err := r.Next()
						require.NoError(t, err)
						require.Equal(t, at != w.head, ok, "what is there is found")
						require.Zero(t, r.Lost())
						if join == Now {
							require.Equal(t, w.head, r.Point())
						}
					}
					w.Abort()
					return w.Write(tag, payload)
				}))
			}
			if max <= 8 {
				oldest := newReader(t, seg, nil, Oldest)
				require.GreaterOrEqual(t, w.head.Position-oldest.Point().Position, uint64(MinSize*15/16), "nearly all that is kept can be joined")
			}
		}
	}
}
