//go:build unix

package netconn_test

import (
	"runtime"
	"strings"
)

func goroutines() int { return runtime.NumGoroutine() }

// waiting counts the goroutines that sleep in a function whose name contains in.
func waiting(in string) (n int) {
	b := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, in) && (strings.Contains(head, "select") || strings.Contains(head, "chan receive")) {
			n++
		}
	}
	return n
}
