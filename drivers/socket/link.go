package socket

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/ipc"
)

// socketBuffer is what is asked for on each side of a link, in bytes.
const socketBuffer = 512 << 10

// side says whose end of a connection a link is.
type side uint8

const (
	hostSide side = iota
	workerSide
	clientSide // of a service
	serviceSide
)

// other names the other end.
func (s side) other() string {
	switch s {
	case workerSide:
		return "host"
	case clientSide:
		return "service"
	case serviceSide:
		return "client"
	}
	return "worker"
}

// link is one connection. It implements [drivers.Link] for both sides.
//
// The descriptor is read and written with system calls of our own that never
// block, for those cost no pass through the netpoller while data flows; the
// netpoller is where Sleep and a Send without room wait.
type link struct {
	conn  netConn
	raw   syscall.RawConn
	peer  drivers.Hello
	limit int // largest header and payload together
	side  side

	credentials drivers.Credentials // of the peer

	// fdMu is held for reading around system calls on fd, which never block,
	// and for writing to close it, so that its number cannot be another's.
	fdMu   sync.RWMutex
	fd     int
	closed atomic.Bool

	// end is why the link has ended, nil while it has not; set once. What has
	// arrived is still delivered.
	end  atomic.Pointer[error]
	done chan struct{} // closed when end is set
	// shut is set after end, when the connection takes no more.
	shut atomic.Bool

	reader reader
	waiter waiter
	writer writer
}

var (
	_ drivers.Link       = (*link)(nil)
	_ drivers.Identifier = (*link)(nil)
)

// newLink makes a link of conn, over which hellos have been exchanged. It owns
// conn unless it fails.
func newLink(conn netConn, local, remote drivers.Hello, side side) (*link, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("tandem: socket: %w", err)
	}
	l := &link{
		conn: conn, raw: raw, peer: remote, side: side,
		limit:       min(local.MaxMessage, remote.MaxMessage, drivers.MaxMaxMessage),
		done:        make(chan struct{}),
		credentials: drivers.NoCredentials,
	}
	// A host has made the first connection of its worker itself, so it knows better.
	if side == workerSide {
		if cred, err := peerCredentials(conn); err == nil {
			l.credentials.UID, l.credentials.GID = cred.UID, cred.GID
		}
	}
	if err := raw.Control(func(fd uintptr) { l.fd = int(fd) }); err != nil {
		return nil, fmt.Errorf("tandem: socket: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("tandem: socket: %w", err)
	}
	widen(l.fd, socketBuffer)
	l.reader.oob = make([]byte, rightsSize)
	l.waiter.init(l)
	l.writer.init(l)
	return l, nil
}

// Peer returns the hello of the other side.
func (l *link) Peer() drivers.Hello { return l.peer }

// PeerCredentials implements [drivers.Identifier].
func (l *link) PeerCredentials() drivers.Credentials { return l.credentials }

// Shutdown ends the link and keeps what has arrived.
func (l *link) Shutdown() {
	l.flush()
	l.finish(ipc.ErrDisconnected)
}

// Close ends the link and frees its descriptor.
func (l *link) Close() error {
	l.Shutdown()
	// Shutdown has woken the goroutines that wait in the netpoller.
	l.waiter.mu.Lock()
	defer l.waiter.mu.Unlock()
	l.fdMu.Lock()
	again := l.closed.Swap(true)
	l.fdMu.Unlock()
	if again {
		return nil
	}
	// Not under fdMu: this waits for a Send in the netpoller, which wants fdMu.
	l.reader.closeParcels() // nobody reads any more
	if err := l.conn.Close(); err != nil {
		return fmt.Errorf("tandem: socket: close the connection: %w", err)
	}
	return nil
}

// finish ends the link because of err, unless it has ended already, and wakes
// whoever waits on it. It returns why the link has ended.
func (l *link) finish(err error) error {
	if !l.end.CompareAndSwap(nil, &err) {
		return *l.end.Load()
	}
	close(l.done)
	defer l.shut.Store(true)
	l.fdMu.RLock()
	defer l.fdMu.RUnlock()
	if !l.closed.Load() {
		// The peer shall notice even if this link is never closed. Deadlines
		// wake the goroutines that wait here. Code that resets one loads end afterwards.
		endStream(l.fd)
		_ = l.conn.SetDeadline(past)
	}
	return err
}

// failed turns an error of recv or send into that of the link.
func (l *link) failed(err error, where string) error {
	switch {
	case !errors.Is(err, io.EOF):
		return l.finish(fmt.Errorf("%w: socket: %w", ipc.ErrPeerGone, process.Shortage(err)))
	case l.side == workerSide:
		// The host may come back: the endpoint accepts it.
		return l.finish(fmt.Errorf("%w: the host has closed the connection%s", ipc.ErrDisconnected, where))
	}
	return l.finish(fmt.Errorf("%w: the %s has closed the connection%s", ipc.ErrPeerGone, l.side.other(), where))
}

// alive reports whether neither side has ended the link yet, as far as the
// system can tell.
func (l *link) alive() bool {
	if l.end.Load() != nil {
		return false
	}
	l.fdMu.RLock()
	defer l.fdMu.RUnlock()
	return !l.closed.Load() && !hungUp(l.fd)
}

// past is a deadline that is over.
var past = time.Unix(1, 0)
