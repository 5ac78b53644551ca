package netconn

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/tandemipc/tandem/ipc"
)

// stream declares the streams that connections to the listener of this name are. Its opener is
// who dials.
func stream(name string) *ipc.BidiStream[[]byte, []byte] {
	return ipc.NewBidiStream[[]byte, []byte]("netconn."+name, ipc.WithCodec(ipc.Raw), ipc.WithTimeout(0))
}

// greeting is the first item that the side of the listener sends: it has taken the connection.
const greeting = "netconn 1"

// Dialer dials the listener of one name. It is immutable and safe for concurrent use.
type Dialer struct {
	caller ipc.Caller
	name   string
	stream *ipc.BidiStream[[]byte, []byte]
}

// NewDialer returns a dialer for the listener of this name on the other side of c. c is a client, a
// pool, or what worker.Host returns. NewDialer panics if c is nil or name is empty.
func NewDialer(c ipc.Caller, name string) *Dialer {
	checkName("NewDialer", name)
	if c == nil {
		panic("tandem: netconn: NewDialer: the caller is nil")
	}
	return &Dialer{c, name, stream(name)}
}

func checkName(what, name string) {
	if name == "" {
		panic("tandem: netconn: " + what + ": the name is empty")
	}
}

// Dial is NewDialer(c, name).Dial(ctx).
func Dial(ctx context.Context, c ipc.Caller, name string) (net.Conn, error) {
	return NewDialer(c, name).Dial(ctx)
}

// Dial connects: it returns when the listener has taken the connection, which then waits there for
// Accept. While as many wait there as the listener takes, Dial waits. ctx bounds the dialling, and not
// the connection, which keeps its values. The connection is a [*Conn]. It lives as long as the
// link does; Dial again for the next one.
//
// Errors are of type [*net.OpError]. errors.As finds in them an [*ipc.Error] if the other side has
// refused: of CodeUnimplemented if nobody listens, and CodeUnavailable if the listener is closed.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: Addr{Name: d.name}, Err: err}
	}
	return c, nil
}

// DialContext is Dial for [net/http.Transport] and whoever else names a network and an address.
// Both are ignored.
func (d *Dialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) { return d.Dial(ctx) }

// DialAddress is Dial for grpc.WithContextDialer. The address is ignored.
func (d *Dialer) DialAddress(ctx context.Context, _ string) (net.Conn, error) { return d.Dial(ctx) }

func (d *Dialer) dial(ctx context.Context) (*Conn, error) {
	// Whoever dials may end ctx as soon as it has the connection.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, cancel)
	s, err := d.stream.Open(lasting, d.caller)
	if err == nil {
		err = greeted(ctx, s)
	}
	if !unwatch() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		if s != nil {
			s.Close()
		}
		cancel()
		return nil, err
	}
	s.Widen(ctx, window)
	c := newConn(&s.Receiver, &s.Sender, Addr{Name: d.name, PID: os.Getpid()}, Addr{Name: d.name})
	c.giveUp = func() {
		s.Close()
		cancel()
	}
	return c, nil
}

// greeted waits until the listener has taken the connection.
func greeted(ctx context.Context, s *ipc.BidiStreamCall[[]byte, []byte]) error {
	item, err := s.Receive(ctx)
	switch {
	case err == io.EOF:
		return fmt.Errorf("%w: it has ended the connection without a greeting", errProtocol)
	case err != nil:
		return err
	case string(item) != greeting:
		return fmt.Errorf("%w: it has greeted with %q", errProtocol, item[:min(len(item), 32)])
	}
	return nil
}
