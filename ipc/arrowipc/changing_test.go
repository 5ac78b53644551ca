package arrowipc_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// A sender that writes while its batch is decoded gets an error or a batch. With Copy the batch is as it
// was when it was checked: all of it can be used.
func TestSenderWritesMeanwhile(t *testing.T) {
	if raceEnabled {
		t.Skip("it would find this race, which is meant")
	}
	for i, some := range [][]arrow.DataType{types, {symbols}, {arrow.BinaryTypes.String}, {arrow.ListOf(inner)}} {
		rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(uint64(i), 1)), 20, some...)
		m := encoded(t, rec)
		rec.Release()
		var stop atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for !stop.Load() {
				at := r.IntN(len(m.bytes))
				old := m.bytes[at]
				m.bytes[at] = byte(r.Uint32())
				for range r.IntN(100) {
					_ = stop.Load()
				}
				m.bytes[at] = old
			}
		}()
		b := ipc.NewBuffer(m)
		good, bad := 0, 0
		for n, began := 0, time.Now(); n < 400 || good == 0 && time.Since(began) < time.Minute || bad == 0 && n < 20_000; n++ {
			o := arrowipc.ReadOptions{Copy: n%2 == 0, Check: arrowipc.Check(n / 2 % 2)}
			got, err := arrowipc.Decode(b, o)
			if err != nil {
				require.ErrorIs(t, err, arrowipc.ErrMalformed)
				bad++
				continue
			}
			good++
			if o.Copy && o.Check == arrowipc.CheckValues {
				use(got)
			}
			got.Release()
		}
		stop.Store(true)
		<-done
		require.Positive(t, good)
		b.Release()
		require.Equal(t, 1, m.freed)
	}
}
