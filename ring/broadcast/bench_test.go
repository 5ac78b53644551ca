package broadcast

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

const benchRing = 1 << 20

// BenchmarkFanOut sends records of 32 bytes to readers that all read all of them, beside the
// same through package ring, which has one reader.
func BenchmarkFanOut(b *testing.B) {
	payload := make([]byte, 32)
	ctx := context.Background()
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("ring/batch=%d", batch), func(b *testing.B) {
			local, remote := make([]byte, ring.ControlSize+benchRing), make([]byte, ring.ControlSize+ring.MinSize)
			require.NoError(b, ring.Format(local, 0))
			require.NoError(b, ring.Format(remote, 0))
			p, _, err := ring.Join(local, remote)
			require.NoError(b, err)
			_, c, err := ring.Join(remote, local)
			require.NoError(b, err)
			buf := make([]byte, 32)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := 0; n < b.N; {
					r, ok, err := c.Next()
					switch {
					case err != nil:
						panic(err)
					case ok:
						copy(buf, r.Data)
						n++
					default:
						if err := c.Wait(ctx); err != nil {
							panic(err)
						}
					}
				}
			}()
			b.ResetTimer()
			for i := range b.N {
				if err := p.SendBatched(ctx, 1, payload, nil); err != nil {
					b.Fatal(err)
				}
				if i%batch == 0 {
					p.Publish()
				}
			}
			p.Publish()
			<-done
		})
		for _, readers := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("broadcast/readers=%d/batch=%d", readers, batch), func(b *testing.B) {
				seg, w := newWriter(b, benchRing, Point{})
				var wg sync.WaitGroup
				for range readers {
					own := newOwn(b)
					r := newReader(b, seg, own, Now)
					_, err := w.Add(own, Reliable(0))
					require.NoError(b, err)
					wg.Go(func() {
						for n := 0; n < b.N; {
							_, ok, err := r.Next()
							switch {
							case err != nil:
								panic(err)
							case ok:
								n++
							default:
								if err := r.Wait(ctx); err != nil {
									panic(err)
								}
							}
						}
					})
				}
				b.ResetTimer()
				for i := range b.N {
					if err := w.SendBatched(ctx, 1, payload); err != nil {
						b.Fatal(err)
					}
					if i%batch == 0 {
						w.Publish()
					}
				}
				w.Publish()
				wg.Wait()
			})
		}
	}
}

// BenchmarkOneThread writes and reads in turn: what the two cost without another processor.
func BenchmarkOneThread(b *testing.B) {
	payload := make([]byte, 32)
	b.Run("ring", func(b *testing.B) {
		local, remote := make([]byte, ring.ControlSize+benchRing), make([]byte, ring.ControlSize+ring.MinSize)
		require.NoError(b, ring.Format(local, 0))
		require.NoError(b, ring.Format(remote, 0))
		p, _, err := ring.Join(local, remote)
		require.NoError(b, err)
		_, c, err := ring.Join(remote, local)
		require.NoError(b, err)
		buf := make([]byte, 32)
		for b.Loop() {
			if err := p.Write(1, payload); err != nil {
				b.Fatal(err)
			}
			r, ok, _ := c.Next()
			if !ok {
				b.Fatal("no record")
			}
			copy(buf, r.Data)
		}
	})
	b.Run("broadcast", func(b *testing.B) {
		seg, w := newWriter(b, benchRing, Point{})
		r := newReader(b, seg, nil, Now)
		for b.Loop() {
			if err := w.Write(1, payload); err != nil {
				b.Fatal(err)
			}
			if _, ok, _ := r.Next(); !ok {
				b.Fatal("no record")
			}
		}
	})
}
