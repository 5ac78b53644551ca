//go:build !linux

package ring

import (
	"fmt"
	"os"
	"runtime"
)

// Supported returns an error that wraps [ErrUnsupported]: sealed shared memory
// takes Linux 5.1.
func Supported() error {
	return fmt.Errorf("%w: %s has no sealed memory files (memfd_create with F_SEAL_FUTURE_WRITE, Linux 5.1)", ErrUnsupported, runtime.GOOS)
}

// Create returns the error of [Supported].
func Create(ringSize int, opts ...Option) (*Segment, error) {
	if _, err := SegmentSize(ringSize); err != nil {
		return nil, err
	}
	newOptions(opts)
	return nil, Supported()
}

// Open returns the error of [Supported].
func Open(f *os.File, opts ...Option) (*Segment, error) {
	newOptions(opts)
	return nil, Supported()
}
