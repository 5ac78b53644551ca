//go:build unix

package worker_test

import (
	"fmt"
	"testing"
)

// BenchmarkLocal measures a call of a handler of the same process, as Local and as Direct run it.
func BenchmarkLocal(b *testing.B) {
	for name, connect := range inProcess {
		for _, size := range []int{0, 64, 1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprint(name, "/", size), func(b *testing.B) {
				c := localWith(b, connect)
				request := make([]byte, size)
				var response []byte
				b.ReportAllocs()
				for b.Loop() {
					if err := rawEcho.CallInto(b.Context(), c, request, &response); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
