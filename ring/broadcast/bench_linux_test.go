package broadcast

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tandemipc/tandem/ring"
)

func init() {
	// park reads what there is, and parks at once when there is nothing.
	helpers["park"] = func(args []string) {
		conn := helperConn()
		for _, r := range helperReaders(conn, must(strconv.Atoi(args[0])), Now) {
			r.SetWait(ring.WaitPark)
			go func() {
				for {
					must(0, r.Wait(context.Background()))
					for ok := true; ok; {
						_, ok, _ = r.Next()
					}
				}
			}()
		}
		exitWith(conn)
	}
}

// parkedReaders returns a writer with n readers that park, in processes of up to 8.
func parkedReaders(b *testing.B, n int) (w *Writer, peers []*Peer) {
	seg, err := Create(1<<20, Prefault())
	require.NoError(b, err)
	b.Cleanup(func() { seg.Close() })
	w, err = NewWriter(seg.Bytes())
	require.NoError(b, err)
	b.Cleanup(w.Close)
	for n > 0 {
		k := min(n, 8)
		_, more := readersIn(b, w, seg, "park", k, nil)
		peers = append(peers, more...)
		n -= k
	}
	return w, peers
}

// allParked waits until all readers are parked, and have not been rung for.
func allParked(peers []*Peer) {
	for _, p := range peers {
		for {
			v := atomic.LoadUint32(p.waiting)
			if v&stateMask == stateParked && v != atomic.LoadUint32(&p.rung) {
				break
			}
			time.Sleep(10 * time.Microsecond)
		}
	}
}

// BenchmarkPublishParked measures Publish alone, each time when all readers are asleep.
func BenchmarkPublishParked(b *testing.B) {
	payload := make([]byte, 32)
	for _, n := range []int{0, 1, 8, 64} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			w, peers := parkedReaders(b, n)
			all := make([]time.Duration, 0, 1<<16)
			var woken []time.Duration
			armed := make([]uint32, n)
			for b.Loop() {
				allParked(peers)
				time.Sleep(100 * time.Microsecond) // they are on their way to sleep
				for i, p := range peers {
					armed[i] = atomic.LoadUint32(p.waiting)
				}
				begin := time.Now()
				if err := w.Write(1, payload); err != nil {
					b.Fatal(err)
				}
				all = append(all, time.Since(begin))
				for i, p := range peers {
					for atomic.LoadUint32(p.waiting) == armed[i] {
						runtime.Gosched()
					}
				}
				woken = append(woken, time.Since(begin))
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2]), "ns/publish")
			b.ReportMetric(float64(all[len(all)*9/10]), "p90-ns/publish")
			slices.Sort(woken)
			b.ReportMetric(float64(woken[len(woken)/2]), "ns/rung")
		})
	}
}

// BenchmarkPublishToSleepy publishes without a pause to readers that park whenever they can.
func BenchmarkPublishToSleepy(b *testing.B) {
	payload := make([]byte, 32)
	for _, n := range []int{0, 1, 8, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, _ := parkedReaders(b, n)
			for b.Loop() {
				if err := w.Write(1, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
