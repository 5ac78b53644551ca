//go:build unix

package worker_test

import (
	"fmt"
	"testing"
)

// BenchmarkLocal measures a call of a handler of the same process.
func BenchmarkLocal(b *testing.B) {
	for _, size := range []int{0, 64, 1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := local(b)
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
