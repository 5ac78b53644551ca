package ipc

import (
	"errors"
	"syscall"

	"github.com/tandemipc/tandem/ring/arena"
)

// shortages are the error numbers by which a system says that it has no memory for a buffer.
var shortages = []struct {
	errno    syscall.Errno
	resource string
}{
	{syscall.ENOMEM, "memory"},
	{syscall.EMFILE, "open files"},
	{syscall.ENFILE, "open files of the whole system"},
	{syscall.ENOSPC, "space"},
	{syscall.EDQUOT, "space within the user's quota"},
	{syscall.EFBIG, "space within the largest file"},
}

// shortage returns err as an [*ExhaustedError] if the system or an arena is short of something, and
// otherwise as it is.
func shortage(err error) error {
	if errors.Is(err, arena.ErrFull) || errors.Is(err, arena.ErrTooLarge) {
		return &ExhaustedError{Resource: "memory of the arena", Err: err}
	}
	for _, s := range shortages {
		if errors.Is(err, s.errno) {
			return &ExhaustedError{Resource: s.resource, Err: err}
		}
	}
	return err
}
