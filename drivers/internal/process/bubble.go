package process

import (
	"bytes"
	"runtime"
	"time"
)

// bubble names the synctest bubble in which the caller runs. It is "" outside of tests
// with package testing/synctest. Goroutines of different bubbles must not share channels.
func bubble() string {
	// Only in a bubble the time has no monotonic reading, which Round strips.
	if now := time.Now(); now != now.Round(0) {
		return ""
	}
	// The trace of a goroutine begins "goroutine 7 [running, synctest bubble 1]:".
	trace := make([]byte, 128)
	trace = trace[:runtime.Stack(trace, false)]
	header, _, _ := bytes.Cut(trace, []byte("]:"))
	if _, id, ok := bytes.Cut(header, []byte("synctest bubble ")); ok {
		return string(id)
	}
	return ""
}
