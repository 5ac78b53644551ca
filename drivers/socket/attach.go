package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// Attach takes over a worker that another process has started, and usually also
// detached: it connects to where the worker listens, as connect says, and proves
// that the process that answers is the very run that ref names, by its user, its
// process id with the start time, and its nonce. Before that nothing is trusted,
// and no process is signalled at any time. A field of connect that is out of range is
// an error.
//
// A worker that has a host refuses a second one with an [*ipc.RefusedError], or
// lets it wait until ctx ends, as its [Driver].SecondHost says. Other errors wrap
//
//   - [ErrStale], at once, if the process has ended, also if its id is that of another
//     process now; its private directory, if that was left, is removed;
//   - [ErrWrongPeer], at once, if another process listens at the path, or the user is
//     another one;
//   - [ErrBadRef] if ref cannot name a worker;
//   - [ipc.ErrExhausted] if this process or the worker is short of a resource, such as
//     open files;
//   - [ipc.ErrUnsupported] on other systems than Linux, for they cannot hold on to
//     a process that is not a child.
//
// log gets what the channel has to say that no error tells. If it is nil, the
// channel says nothing.
//
// The worker is not our child. The channel's Process knows when it ends, but not
// how: its Exit has the code [ipc.ExitUnknown].
func Attach(ctx context.Context, ref Ref, connect Connect, log *slog.Logger) (*Channel, error) {
	if err := connect.check(); err != nil {
		return nil, err
	}
	if err := supported(); err != nil {
		return nil, err
	}
	if err := errors.Join(ref.check(), ref.checkOwner()); err != nil {
		return nil, err
	}
	cleanUp()
	at := newSite(place{path: ref.Path, private: ref.Private}, ref.UID)
	p, err := process.Find(ref.PID, ref.StartTime, ref.Program)
	if err != nil {
		var gone *process.GoneError
		if errors.As(err, &gone) {
			if ref.Private {
				at.discard()
			}
			return nil, fmt.Errorf("%w: %w", ErrStale, gone)
		}
		return nil, fmt.Errorf("tandem: socket: attach: %w", err)
	}
	if err := errors.Join(process.Identify(), at.identify()); err != nil {
		p.Close()
		at.close()
		return nil, err
	}
	local := process.Hello(drivers.Hello{Codec: ref.Codec, MaxMessage: ref.MaxMessage, Window: ref.Window}, driverName, layoutVersion)
	c := &Channel{
		proc: p, foreign: p, connect: connect, log: orDiscard(log), local: local, ref: ref, site: at, credentials: drivers.Credentials{UID: ref.UID, GID: -1},
	}
	c.init()
	if err := c.establish(ctx, nil); err != nil {
		c.end(false)
		p.Close()
		at.close()
		if errors.Is(err, ipc.ErrPeerGone) {
			err = fmt.Errorf("%w: %w", ErrStale, err)
		}
		return nil, err
	}
	c.begin()
	return c, nil
}
