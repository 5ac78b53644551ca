package sealed

import (
	"errors"
	"sync"
)

// Supported returns nil if this system can make sealed memory, or else an error that says
// what is missing. If the answer is final, as nil and an error that wraps [ErrUnsupported]
// are, Supported remembers it. Any other error, such as that of a process that has no
// descriptor left, says nothing about the system, and the next call tries again.
func Supported() error {
	support.Lock()
	defer support.Unlock()
	if support.known {
		return support.err
	}
	err := try()
	support.known, support.err = err == nil || errors.Is(err, ErrUnsupported), err
	return err
}

// support is what Supported remembers.
var support struct {
	sync.Mutex
	known bool
	err   error
}

// try makes empty memory and seals it.
func try() error {
	f, err := memfd("tandem-test", false)
	if err != nil {
		return err
	}
	defer f.Close()
	return seal(f, requiredSeals)
}
