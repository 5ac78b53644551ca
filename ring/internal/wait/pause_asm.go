//go:build amd64 || arm64

package wait

// Pause tells the processor that the caller is spinning: PAUSE on amd64, YIELD
// on arm64. It takes some tens of nanoseconds at most.
func Pause()
