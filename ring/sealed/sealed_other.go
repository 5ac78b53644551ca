//go:build !linux

package sealed

import (
	"fmt"
	"os"
	"runtime"
)

// Supported returns an error that wraps [ErrUnsupported]: sealed memory takes Linux 5.1.
func Supported() error {
	return fmt.Errorf("%w: %s has no sealed memory files (memfd_create with F_SEAL_FUTURE_WRITE, Linux 5.1)", ErrUnsupported, runtime.GOOS)
}

// Create returns the error of [Supported].
func Create(name string, size int, opts ...Option) (*Memory, error) {
	newOptions(opts)
	return nil, Supported()
}

// CreateFrozen returns the error of [Supported].
func CreateFrozen(name string, contents []byte, opts ...Option) (*Memory, error) {
	newOptions(opts)
	return nil, Supported()
}

// Open returns the error of [Supported].
func Open(f *os.File, min, max int, opts ...Option) (*Memory, error) {
	newOptions(opts)
	return nil, Supported()
}
