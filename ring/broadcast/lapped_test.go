package broadcast

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A reader that the writer has lapped by just the size of the ring, or by any other number of bytes, finds that out,
// though it finds a 0 where it looks.
func TestLappedToTheByte(t *testing.T) {
	for _, start := range starts {
		for records := MinSize/64 - 2; records < 2*MinSize/64+3; records++ {
			seg, w := newWriter(t, MinSize, Point{start.Position &^ 63, start.Sequence})
			r := newReader(t, seg, nil, Now)
			for range records {
				require.NoError(t, w.Write(1, make([]byte, 56)))
			}
			kept := w.limit-r.Point().Position <= MinSize
			lost, read := uint64(0), uint64(0)
			for {
				rec, ok, err := r.Next()
				require.NoError(t, err)
				if !ok {
					break
				}
				lost += rec.Lost
				read++
			}
			require.EqualValues(t, records, lost+read)
			require.Equal(t, kept, lost == 0)
			require.NotZero(t, read)
		}
	}
}

// Losses add up when a reader is lapped again before it has read anything.
func TestLappedTwice(t *testing.T) {
	seg, w := newWriter(t, MinSize, Point{})
	r := newReader(t, seg, nil, Now)
	for w.head.Position%MinSize <= MinSize/2 {
		require.NoError(t, w.Write(1, make([]byte, 8)))
	}
	_, err := w.TryClaim(w.MaxRecord()) // for which the rest of the ring is too short
	require.NoError(t, err)
	_, ok, err := r.Next()
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, w.head, r.Point())
	require.Equal(t, w.head.Sequence, r.Lost())
	require.False(t, r.Ready())
	w.Abort()
	for range 1000 {
		require.NoError(t, w.Write(1, make([]byte, 8)))
	}
	rec, ok, err := r.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, rec.Sequence, rec.Lost)
	require.Equal(t, rec.Lost, r.Lost())
}

// The newest mark is kept however little lies between it and a record that takes the whole ring.
func TestMarkBeforeLargeRecord(t *testing.T) {
	for small := range MinSize / 16 {
		seg, w := newWriter(t, MinSize, Point{})
		for range small {
			require.NoError(t, w.Write(1, make([]byte, 8)))
		}
		_, err := w.TryClaim(w.MaxRecord())
		require.NoError(t, err)
		require.LessOrEqual(t, w.limit-w.mark.Position, uint64(MinSize))
		require.LessOrEqual(t, w.limit-w.head.Position, uint64(MinSize))
		for _, join := range []Join{Now, Oldest} {
			r := newReader(t, seg, nil, join)
			_, _, err := r.Next()
			require.NoError(t, err)
			require.Zero(t, r.Lost())
		}
	}
}

// What counts for a reader's patience is whether it makes way for what the writer wanted first.
func TestPatienceIsForOneRecord(t *testing.T) {
	seg, w := newWriter(t, MinSize, Point{})
	own := newOwn(t)
	r := newReader(t, seg, own, Now)
	p, err := w.Add(own, Reliable(time.Minute))
	require.NoError(t, err)
	for w.Write(1, make([]byte, 100)) == nil {
	}
	age := func() {
		w.mu.Lock()
		require.NotZero(t, p.blocked)
		p.blocked -= 50 * time.Second // as if it had waited so long
		w.mu.Unlock()
	}
	age()
	for range 4 { // it makes way for the record that did not fit
		_, ok, err := r.Next()
		require.NoError(t, err)
		require.True(t, ok)
	}
	r.settle()
	require.ErrorIs(t, w.Write(1, make([]byte, w.MaxRecord())), ErrFull, "a larger one")
	age()
	require.ErrorIs(t, w.Write(1, make([]byte, w.MaxRecord())), ErrFull)
	require.NoError(t, p.Err(), "it has had 50 seconds for each")
	age()
	require.NoError(t, w.Write(1, make([]byte, w.MaxRecord())))
	var slow *SlowError
	require.ErrorAs(t, p.Err(), &slow, "and 100 for the second")
}
