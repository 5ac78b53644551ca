package ipc_test

import (
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/ipc"
)

// What a buffer costs its maker.
func BenchmarkAllocRelease(b *testing.B) {
	for _, n := range []int{64, 4 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := ipc.NewArena(ipc.ArenaOptions{})
			defer a.Close()
			b.ReportAllocs()
			for b.Loop() {
				buf, err := a.Alloc(b.Context(), n)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
	}
}
