package ring

import "github.com/tandemipc/tandem/ring/internal/wait"

// Pause tells the processor that the caller is spinning: PAUSE on amd64, YIELD on arm64. It takes
// some tens of nanoseconds at most, and nothing on other architectures.
func Pause() { wait.Pause() }
