package suite

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/socket"
)

// EndFile is the descriptor, inherited by the worker, over which the two sides exchange
// their segments.
const EndFile = 3

// StartEnds starts a worker, asks it with begin to open its end of a ring or a link on
// [EndFile], and connects that with ours, which open makes.
func StartEnds[T any](ctx context.Context, name string, begin func(context.Context, *Worker) error, open func(*os.File) (T, error)) (w *Worker, end T, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, end, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "segments"), os.NewFile(uintptr(pair[1]), "segments")
	defer ours.Close()
	w, err = Start(ctx, name, socket.Driver{}, []*os.File{theirs})
	theirs.Close()
	if err != nil {
		return nil, end, err
	}
	// Each side waits for the other's segment, so both have to begin.
	began := make(chan error, 1)
	go func() {
		began <- w.Blame(begin(ctx, w))
	}()
	end, err = open(ours)
	if err == nil {
		err = <-began
	}
	if err != nil {
		return nil, end, errors.Join(w.Blame(err), w.Close())
	}
	return w, end, nil
}
