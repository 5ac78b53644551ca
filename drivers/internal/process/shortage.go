package process

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/tandemipc/tandem/ipc"
)

// shortages are the error numbers by which a system says that it has no more of
// something. EAGAIN is not among them: mostly it means that something would block.
var shortages = []struct {
	errno    syscall.Errno
	resource string
	limit    string // of the process, which may be the reason
}{
	{syscall.EMFILE, "open files", "RLIMIT_NOFILE"},
	{syscall.ENFILE, "open files of the whole system", ""},
	{syscall.ETOOMANYREFS, "open files on their way to other processes", "RLIMIT_NOFILE"},
	{syscall.ENOMEM, "memory", "RLIMIT_AS"},
	{syscall.ENOBUFS, "memory for sockets", ""},
	{syscall.ENOSPC, "space", ""},
	{syscall.EDQUOT, "space within the user's quota", ""},
	{syscall.EFBIG, "space within the largest file", "RLIMIT_FSIZE"},
}

// Shortage returns err as an [*ipc.ExhaustedError] if the system has refused something
// for want of a resource, so that the same may succeed later. It returns any other error
// as it is, and one that says so already.
func Shortage(err error) error {
	if err == nil || errors.Is(err, ipc.ErrExhausted) {
		return err
	}
	for _, s := range shortages {
		if errors.Is(err, s.errno) {
			return &ipc.ExhaustedError{Resource: s.resource, Limit: limit(s.limit), Err: err}
		}
	}
	var path *fs.PathError
	var call *os.SyscallError
	switch {
	case !errors.Is(err, syscall.EAGAIN):
	case errors.As(err, &path) && path.Op == "fork/exec":
		return &ipc.ExhaustedError{Resource: "processes or threads", Limit: limit("RLIMIT_NPROC"), Err: err}
	case errors.As(err, &call) && call.Syscall == "mmap":
		return &ipc.ExhaustedError{Resource: "memory that may be locked", Limit: limit("RLIMIT_MEMLOCK"), Err: err}
	}
	return err
}

// IsShortage reports whether err is a shortage.
func IsShortage(err error) bool { return errors.Is(Shortage(err), ipc.ErrExhausted) }
