package broadcast

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	seg := make([]byte, ControlSize+4096)
	require.NoError(t, Format(seg, Point{Sequence: 100}))
	w, err := NewWriter(seg)
	require.NoError(t, err)
	r, err := NewReader(seg, nil, Now)
	require.NoError(t, err)
	total := uint64(0)
	for i := range 10000 {
		require.NoError(t, w.Write(3, []byte("hello, world")))
		if i%700 == 0 {
			for {
				rec, ok, err := r.Next()
				require.NoError(t, err)
				if !ok {
					break
				}
				require.Equal(t, "hello, world", string(rec.Data))
				total += rec.Lost + 1
				require.Equal(t, 100+total-1, rec.Sequence)
			}
			require.Equal(t, uint64(i+1), total)
		}
	}
	t.Log(r.Lost())
}

func TestReliableSmoke(t *testing.T) {
	seg := make([]byte, ControlSize+4096)
	require.NoError(t, Format(seg, Point{Sequence: 100}))
	w, err := NewWriter(seg)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 3 {
		own := make([]byte, ReaderSize)
		require.NoError(t, FormatReader(own))
		r, err := NewReader(seg, own, Now)
		require.NoError(t, err)
		_, err = w.Add(own, Reliable(0))
		require.NoError(t, err)
		wg.Go(func() {
			for n := 0; n < 20000; {
				rec, ok, err := r.Next()
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					if err := r.Wait(t.Context()); err != nil {
						t.Error(err)
					}
					continue
				}
				if rec.Sequence != uint64(100+n) || rec.Lost != 0 {
					t.Errorf("%d %d", rec.Sequence, n)
					return
				}
				n++
			}
			r.Close()
		})
	}
	for i := range 20000 {
		require.NoError(t, w.Send(t.Context(), 3, make([]byte, i%500)))
	}
	wg.Wait()
}
