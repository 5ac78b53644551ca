//go:build !amd64 && !arm64

package wait

// Pause tells the processor that the caller is spinning; on this architecture
// it does nothing.
func Pause() {}
