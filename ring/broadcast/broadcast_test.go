package broadcast

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever a writer and its readers do in whatever order: each reader finds each record
// as it was written, in order, except for exactly those that it is told to have lost. None is lost
// that is still kept, and none at all by a reliable reader.
func TestModel(t *testing.T) {
	var lapped, full, cut, rejoined int
	check := func(t *rapid.T) {
		const size = MinSize
		seg := make([]byte, ControlSize+size)
		start := rapid.SampledFrom(starts).Draw(t, "start")
		require.NoError(t, Format(seg, start))
		w, err := NewWriter(seg)
		require.NoError(t, err)
		defer w.Close()
		maxSize := rapid.SampledFrom([]int{8, 100, 700, w.MaxRecord()}).Draw(t, "max")

		type reader struct {
			*follower
			peer     *Peer
			reliable bool
			over     bool
		}
		var readers []*reader
		var points []Point // where records begin
		published := start.Sequence
		step := map[string]func(t *rapid.T){
			"write": func(t *rapid.T) {
				for range rapid.IntRange(1, 60).Draw(t, "n") {
					p := Point{w.pos, w.seq}
					payload := payloadOf(nil, p.Sequence, sizeOf(p.Sequence, maxSize))
					var err error
					if rapid.Bool().Draw(t, "claim") {
						var buf []byte
						if buf, err = w.TryClaim(len(payload) + rapid.IntRange(0, w.MaxRecord()-len(payload)).Draw(t, "extra")); err == nil {
							copy(buf, payload)
							w.Commit(byte(p.Sequence), len(payload))
						}
					} else {
						err = w.Append(byte(p.Sequence), payload)
					}
					if err == ErrFull {
						require.Equal(t, p, Point{w.pos, w.seq})
						full++
						break
					}
					require.NoError(t, err)
					points = append(points, p)
				}
			},
			"abort": func(t *rapid.T) {
				p := Point{w.pos, w.seq}
				if _, err := w.TryClaim(rapid.IntRange(0, w.MaxRecord()).Draw(t, "n")); err == nil {
					w.Abort()
				}
				require.Equal(t, p, Point{w.pos, w.seq})
			},
			"publish": func(t *rapid.T) {
				w.Publish()
				require.Equal(t, w.seq, w.Point().Sequence)
				published = w.seq
			},
			"join": func(t *rapid.T) {
				join := Now
				switch rapid.IntRange(0, 3).Draw(t, "where") {
				case 1:
					join = Oldest
				case 3:
					join = At(w.Point()) // perhaps with records pending
				case 2:
					if len(points) > 0 {
						join = At(rapid.SampledFrom(points[max(0, len(points)-200):]).Draw(t, "at"))
					}
				}
				if join.kind == joinAt && int64(join.at.Sequence-published) > 0 {
					return // it will be there
				}
				r := &reader{}
				var own []byte
				add := func() {}
				if rapid.Bool().Draw(t, "own") {
					own = make([]byte, ReaderSize)
					require.NoError(t, FormatReader(own))
					var opts []PeerOption
					if r.reliable = rapid.Bool().Draw(t, "reliable"); r.reliable {
						opts = append(opts, Reliable(0))
						if rapid.Bool().Draw(t, "lag") {
							opts = append(opts, MaxLag(rapid.IntRange(size/2, size).Draw(t, "max lag")))
						}
					}
					add = func() {
						var err error
						r.peer, err = w.Add(own, opts...)
						require.NoError(t, err)
					}
				}
				before := rapid.Bool().Draw(t, "add first")
				if before {
					add()
				}
				rr, err := NewReader(seg, own, join)
				require.NoError(t, err)
				r.follower = follow(rr, maxSize)
				if !before {
					add()
				}
				if join == Now {
					require.Equal(t, published, rr.Point().Sequence)
				}
				if join == Oldest && r.reliable && before {
					r.reliable = rr.Point().Sequence-r.peer.Joined().Sequence < 1<<63
				}
				if join.kind == joinAt {
					// It may have been overwritten before.
					r.reliable = r.reliable && w.limit-rr.Point().Position <= size && (!before || rr.Point().Sequence-r.peer.Joined().Sequence < 1<<63)
				}
				readers = append(readers, r)
			},
			"read": func(t *rapid.T) {
				if len(readers) == 0 {
					return
				}
				r := rapid.SampledFrom(readers).Draw(t, "reader")
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					before := r.r.Point()
					kept := w.limit-before.Position <= size && r.r.Lost() == r.gap
					rec, ok, err := r.r.Next()
					if r.over || err != nil {
						require.ErrorIs(t, err, ErrCutOff)
						require.ErrorIs(t, r.peer.Err(), r.peer.Err())
						require.NotNil(t, r.peer.Err())
						r.over = true
						cut++
						return
					}
					if !ok {
						require.Equal(t, published, r.r.Point().Sequence, "it has read all")
						return
					}
					require.NoError(t, r.check(rec))
					if rec.Lost > 0 {
						lapped++
						require.False(t, kept, "what was lost is there")
						require.False(t, r.reliable && r.peer.Err() == nil, "a reliable reader has lost records")
					}
				}
			},
			"remove": func(t *rapid.T) {
				if len(readers) == 0 {
					return
				}
				i := rapid.IntRange(0, len(readers)-1).Draw(t, "reader")
				r := readers[i]
				readers = append(readers[:i:i], readers[i+1:]...)
				if r.peer == nil {
					return
				}
				if rapid.Bool().Draw(t, "close") {
					r.r.Close()
					_, _, err := r.r.Next()
					require.Error(t, err)
				}
				r.peer.Remove()
				rejoined++
			},
		}
		step["write more"] = step["write"]
		t.Repeat(step)
	}
	for range scaled(20) {
		rapid.Check(t, check)
	}
	require.NotZero(t, lapped)
	require.NotZero(t, full)
	require.NotZero(t, cut)
	require.NotZero(t, rejoined)
}

// Each size of record fits an empty ring, at each position, and comes out.
func TestSizes(t *testing.T) {
	for _, start := range starts {
		seg, w := newWriter(t, MinSize, start)
		own := newOwn(t)
		_, err := w.Add(own, Reliable(0))
		require.NoError(t, err)
		f := follow(newReader(t, seg, own, Now), 0)
		for i := range 3000 {
			size := (i * 37) % (w.MaxRecord() + 1)
			f.buf = payloadOf(f.buf, f.next, size)
			err := w.Write(1, f.buf)
			if err == ErrFull { // the reader tells lazily what it has read, but at once if it is asked
				_, ok, err := f.r.Next()
				require.NoError(t, err)
				require.False(t, ok)
				require.NoError(t, w.Write(1, f.buf))
			} else {
				require.NoError(t, err)
			}
			rec, ok, err := f.r.Next()
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, f.next, rec.Sequence)
			require.Equal(t, string(f.buf), string(rec.Data))
			f.next++
		}
		require.Zero(t, f.r.Lost())
		_, err = w.TryClaim(w.MaxRecord() + 1)
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorIs(t, w.Send(watchdog(t), 1, make([]byte, w.MaxRecord()+1)), ErrTooLarge)
	}
}

// A batch may be as large as the ring, and no larger. Nobody sees it before it is published.
func TestBatch(t *testing.T) {
	for _, start := range starts {
		seg, w := newWriter(t, MinSize, start)
		f := follow(newReader(t, seg, nil, Now), 50)
		for range 20 {
			n := uint64(0)
			for {
				seq := w.seq
				err := w.Append(byte(seq), payloadOf(nil, seq, sizeOf(seq, 50)))
				if err == ErrFull {
					break
				}
				require.NoError(t, err)
				n++
			}
			require.Greater(t, n, uint64(50))
			require.True(t, w.Pending())
			_, ok, err := f.r.Next()
			require.NoError(t, err)
			require.False(t, ok)
			require.False(t, f.r.Ready())
			w.Publish()
			require.False(t, w.Pending())
			require.True(t, f.r.Ready())
			require.NoError(t, f.until(watchdog(t), f.next+n))
		}
		require.Zero(t, f.gap)
	}
}

func TestMisuse(t *testing.T) {
	_, w := newWriter(t, MinSize, Point{})
	require.Panics(t, func() { w.Commit(1, 0) })
	require.Panics(t, func() { w.Abort() })
	require.Panics(t, func() { w.TryClaim(-1) })
	require.Panics(t, func() { w.Interrupt(nil) })
	_, err := w.TryClaim(10)
	require.NoError(t, err)
	require.Panics(t, func() { w.Commit(1, 11) })
	require.Panics(t, func() { w.TryClaim(1) })
	require.Panics(t, func() { w.Append(1, nil) })
	require.Panics(t, func() { w.WaitSpace(context.Background(), 1) })
	w.Commit(1, 10)
}

func TestAllocations(t *testing.T) {
	seg, w := newWriter(t, 1<<16, Point{})
	own := newOwn(t)
	_, err := w.Add(own, Reliable(0))
	require.NoError(t, err)
	r := newReader(t, seg, own, Now)
	payload := make([]byte, 100)
	ctx := context.Background()
	step := func() {
		if err := w.Send(ctx, 1, payload); err != nil {
			panic(err)
		}
		buf, err := w.Claim(ctx, 50)
		if err != nil {
			panic(err)
		}
		w.Commit(2, len(buf))
		w.Publish()
		for range 2 {
			if _, ok, err := r.Next(); !ok || err != nil {
				panic(fmt.Sprint(ok, err))
			}
		}
	}
	step()
	require.Zero(t, testing.AllocsPerRun(5000, step))
}
