package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/internal/process"
	"github.com/tandemipc/tandem/drivers/internal/rendezvous"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// A process that is to take a listener over connects to it, as clients do:
//
//	successor                         predecessor
//	hello, driver "successor"  --->   is it the same user?
//	                           <---   hello, with the socket that listens
//	listens on it, too
//	ready                      --->   stops to accept, and has its clients leave
//	                           <---   ready
//
// Until it has heard ready the predecessor goes on, and so it does if the successor dies. If the
// predecessor ends, the successor begins again, and listens itself. Who connects in between is
// served by the one or the other, since both have the same socket.

// successor is the driver in the hello of a process that takes a listener over.
const successor = "successor"

// takeOverTimeout bounds how long a predecessor may take for its part.
const takeOverTimeout = 10 * time.Second

// hello is what the two say. The predecessor says with data whether the socket's file is to be left.
func hello(data []byte) ([]byte, error) {
	return drivers.AppendHello(nil, process.Hello(drivers.Hello{
		MaxMessage: drivers.DefaultMaxMessage, Window: drivers.DefaultWindow, DriverData: data,
	}, successor, 0))
}

// leaveFile, as the data of a predecessor's hello, says that the socket's file is somebody else's.
const leaveFile = "leave"

// takeOver takes the listener over from the process that listens under the name, or listens if there is none.
func takeOver(name string, cfg drivers.ListenConfig) (*rendezvous.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), takeOverTimeout)
	defer cancel()
	pauses := drivers.NewBackoff(time.Millisecond, 100*time.Millisecond)
	for {
		l, err := rendezvous.Listen(name, rendezvous.ListenOptions{Mode: cfg.Mode})
		if !errors.Is(err, rendezvous.ErrServed) {
			return l, err
		}
		l, err = succeed(ctx, name)
		ended := errors.Is(err, rendezvous.ErrNotServed) || process.HungUp(err) // the predecessor, perhaps
		if !ended {
			return l, err
		}
		select {
		case <-time.After(pauses.Next()):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// succeed is the successor's part.
func succeed(ctx context.Context, name string) (_ *rendezvous.Listener, err error) {
	conn, _, err := rendezvous.Dial(ctx, name, rendezvous.DialOptions{})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := endWith(ctx, conn)
	defer func() { _ = stop() }()
	defer func() {
		if err != nil {
			err = fmt.Errorf("tandem: take over the listener at %s: %w", name, err)
		}
	}()
	b, err := hello(nil)
	if err != nil {
		return nil, err
	}
	_, said := conn.Write(b)
	from := fdpass.Reader{Conn: conn}
	defer from.Close()
	theirs, err := drivers.ReadHello(&from)
	var refused *ipc.RefusedError
	if said != nil && !errors.As(err, &refused) {
		err = said
	}
	if err != nil {
		return nil, err
	}
	if len(from.Files) != 1 {
		return nil, fmt.Errorf("its process has passed %d descriptors, not 1", len(from.Files))
	}
	l, err := rendezvous.FromFile(from.Files[0], name)
	if err != nil {
		return nil, err
	}
	if err := process.Confirm(conn, successor); err != nil {
		l.Keep() // it is still the other's
		l.Close()
		return nil, err
	}
	if string(theirs.DriverData) == leaveFile {
		l.Keep()
	}
	return l, nil
}

// handOver is the predecessor's part.
func (l *Listener) handOver(c *rendezvous.Client, remote drivers.Hello) error {
	if err := rendezvous.SameUser(c.Peer); err != nil {
		return err
	}
	if !l.handing.TryLock() {
		return errors.New("tandem: another process is taking the listener over")
	}
	defer l.handing.Unlock()
	if closed(l.takenOver) {
		return errors.New("tandem: another process has taken the listener over")
	}
	f, err := l.l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	var data []byte
	if l.l.Keeps() {
		data = []byte(leaveFile)
	}
	b, err := hello(data)
	if err != nil {
		return err
	}
	if err := fdpass.Send(c.Conn, b, f); err != nil {
		return err
	}
	if err := drivers.ReadReady(c.Conn); err != nil {
		l.l.Listen() // the successor may have done so, and then the system names it
		return fmt.Errorf("tandem: the successor (pid %d) has not confirmed: %w", remote.PID, err)
	}
	l.l.Keep()
	close(l.takenOver)
	// The successor has the socket now, whatever becomes of ours.
	_, said := c.Conn.Write(drivers.AppendReady(nil))
	return errors.Join(l.l.Close(), said)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
