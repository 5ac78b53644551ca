package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/peercred"
	"github.com/tandemipc/tandem/drivers/internal/sockfile"
)

// Peer is the process at the other end, as the system names it: the effective user and group
// when it connected, or called listen. PID is 0 where the system does not tell, or if the process is
// in another pid namespace.
type Peer = peercred.Credentials

// SameUser returns an error unless the peer runs as the effective user of this process. Root is no
// exception, in neither direction.
func SameUser(p Peer) error {
	if uid := os.Geteuid(); p.UID != uid {
		return fmt.Errorf("%w: process %d runs as user %d, expected user %d", ErrNotAllowed, p.PID, p.UID, uid)
	}
	return nil
}

// DialOptions are the options of [Dial]. The zero value is useful.
type DialOptions struct {
	// Allow decides whether the process that listens may be the server; nil means [SameUser]. Its
	// error is found in that of Dial, beside [ErrNotAllowed].
	Allow func(Peer) error
}

// Dial connects to whoever listens at a name, and checks who that is before a byte is sent. If the
// server's queue is full, or it has made its socket and does not listen yet, Dial waits, as long as
// ctx lets it. It fails with [ErrNotServed], [ErrNotAllowed], [ErrNotSocket], [ErrBadName], or the
// cause of ctx.
func Dial(ctx context.Context, name string, o DialOptions) (*net.UnixConn, Peer, error) {
	a, err := parse(name)
	if err == nil {
		err = supported()
	}
	if err != nil {
		return nil, Peer{}, err
	}
	fail := func(err error) (*net.UnixConn, Peer, error) {
		return nil, Peer{}, fmt.Errorf("tandem: dial %s: %w", name, err)
	}
	if err := a.locate(false); errors.Is(err, fs.ErrNotExist) {
		return fail(fmt.Errorf("%w: %w", ErrNotServed, err))
	} else if err != nil {
		return fail(err)
	}
	target := a.path
	if a.abstract {
		target = name
	}
	conn, peer, err := connect(ctx, target)
	if err != nil {
		return fail(err)
	}
	allow := o.Allow
	if allow == nil {
		allow = SameUser
	}
	if err := allow(peer); err != nil {
		conn.Close()
		return fail(fmt.Errorf("%w: the server: %w", ErrNotAllowed, err))
	}
	return conn, peer, nil
}

// connect connects to a path or an abstract name. It waits while the queue there is full.
func connect(ctx context.Context, target string) (*net.UnixConn, Peer, error) {
	pauses := drivers.NewBackoff(time.Millisecond, 50*time.Millisecond)
	for {
		if ctx.Err() != nil {
			return nil, Peer{}, context.Cause(ctx)
		}
		conn, peer, err := connectOnce(target)
		if !errors.Is(err, errFull) {
			return conn, peer, err
		}
		select {
		case <-time.After(pauses.Next()):
		case <-ctx.Done():
			return nil, Peer{}, fmt.Errorf("%w: %w", errFull, context.Cause(ctx))
		}
	}
}

// errFull: the queue of whoever listens is full, or it does not listen yet.
var errFull = errors.New("the server takes no connection now")

func connectOnce(target string) (*net.UnixConn, Peer, error) {
	if target[0] != '@' {
		named, release, err := sockfile.DialName(nil, target, target)
		if err != nil {
			return nil, Peer{}, refused(err)
		}
		defer release()
		if len(named) > sockfile.MaxPath {
			return nil, Peer{}, fmt.Errorf("%w: the path %s has %d bytes, largest allowed %d", ErrBadName, target, len(target), sockfile.MaxPath)
		}
		target = named
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: target, Net: "unix"})
	if err != nil {
		err = sockfile.WithoutAddress(err)
		// Some systems refuse for a full queue, too.
		if errors.Is(err, syscall.EAGAIN) || sockfile.NobodyListens(err) && target[0] != '@' && lookAt(target) == nil {
			return nil, Peer{}, errFull
		}
		return nil, Peer{}, refused(err)
	}
	peer, err := peercred.Of(conn)
	if err != nil {
		conn.Close()
		return nil, Peer{}, err
	}
	return conn, peer, nil
}

// refused says what kind of failure of a connect err is.
func refused(err error) error {
	switch {
	case sockfile.NobodyListens(err), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotServed, err)
	case errors.Is(err, sockfile.ErrNotSocket), errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", ErrNotSocket, err)
	}
	return failed(err)
}

// who returns the process that listens at a target, if it has room in its queue.
func who(target string) (Peer, error) {
	conn, peer, err := connectOnce(target)
	if err == nil {
		conn.Close()
	}
	return peer, err
}
