package ring

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/ring/fdpass"
)

// What each side sends over the connection: 16 bytes, all numbers little-endian, with the
// descriptor of its segment, and one byte more when it has mapped the peer's.
//
//	 0                 8         12          16
//	+-----------------+---------+-----------+       +-------+
//	| magic           | version | reserved  |  ...  | ready |
//	+-----------------+---------+-----------+       +-------+
const (
	exchangeSize  = 16
	exchangeMagic = "tndlink1"
	exchangeReady = 1
)

// Socketpair returns two connected sockets to [Exchange] segments over: ours, and theirs
// for the peer, who inherits it (exec.Cmd.ExtraFiles) or is passed it, and makes a
// connection of it with [net.FileConn]. Close theirs when the peer has it: as long as it
// is open here, the end of the peer is not noticed. Errors wrap [ErrUnsupported] on a
// system without sealed memory, or the kernel's error.
func Socketpair() (ours *net.UnixConn, theirs *os.File, err error) {
	if err := Supported(); err != nil {
		return nil, nil, err
	}
	ours, theirs, err = fdpass.Socketpair(syscall.SOCK_STREAM)
	if err != nil {
		return nil, nil, fmt.Errorf("tandem: ring: %w", err)
	}
	return ours, theirs, nil
}

// Exchange links this process with the one at the other end of conn, which calls Exchange,
// too: each side makes a segment with a ring of ringSize bytes, passes its descriptor,
// checks the peer's, and joins the two. The sizes may differ; a side that only receives
// takes [MinSize]. opts are for [Create] and [Open].
//
// Exchange returns when both sides have what they need, or one has failed. It waits for
// the peer until ctx ends. It takes conn over, which is closed if it fails, or else by
// [Link.Close]. conn is a stream of a Unix domain, such as [Socketpair] makes. Who is at
// its other end is for the caller to know.
//
// Errors wrap [ErrPeerGone] if the peer has closed its end or has died, [ErrExchange],
// [ErrSeals] or [ErrLayout] if it has sent something else than a segment, ctx's error, or
// are those of Create.
func Exchange(ctx context.Context, conn *net.UnixConn, ringSize int, opts ...Option) (*Link, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	l, err := exchange(conn, ringSize, opts)
	inTime := stop()
	if err == nil && !inTime {
		err = errors.Join(os.ErrDeadlineExceeded, l.unmap())
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{}) // one of the caller's
		if err != nil {
			err = errors.Join(err, l.unmap())
		}
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("tandem: ring: exchange segments: %w", err)
	}
	l.users.Go(l.watch)
	return l, nil
}

// exchange makes a link that nobody watches yet.
func exchange(conn *net.UnixConn, ringSize int, opts []Option) (*Link, error) {
	if a, ok := conn.LocalAddr().(*net.UnixAddr); ok && a.Net == "unixgram" {
		return nil, errors.New("a datagram socket does not tell that the peer is gone, use a stream")
	}
	l := &Link{conn: conn, done: make(chan struct{})}
	if err := l.join(ringSize, opts); err != nil {
		_ = l.unmap() // the first error says more
		return nil, err
	}
	return l, nil
}

// join makes our segment, gets the peer's, and returns when both sides have joined them.
func (l *Link) join(ringSize int, opts []Option) (err error) {
	if l.ours, err = Create(ringSize, opts...); err != nil {
		return err
	}
	said := fdpass.Send(l.conn, appendExchange(nil), l.ours.File())
	from := fdpass.Reader{Conn: l.conn}
	defer func() {
		if err != nil {
			from.Discard() // whatever they are, their close may block
		}
		from.Close()
	}()
	if err := hear(&from, said); err != nil {
		return err
	}
	if l.theirs, err = Open(from.Files[0], opts...); err != nil {
		return fmt.Errorf("the peer's segment: %w", err)
	}
	if l.Producer, l.Consumer, err = Join(l.ours.Bytes(), l.theirs.Bytes()); err != nil {
		return err
	}
	if err := l.ours.CloseFile(); err != nil {
		return err
	}
	return confirm(&from)
}

func appendExchange(b []byte) []byte {
	b = append(b, exchangeMagic...)
	b = binary.LittleEndian.AppendUint32(b, LayoutVersion)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// hear reads what the peer sends first, and its one descriptor. said is what sending ours
// came to: a peer that has hung up may have done so without reading it.
func hear(from *fdpass.Reader, said error) error {
	var b [exchangeSize]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		return lost(err)
	}
	if string(b[:8]) != exchangeMagic {
		return fmt.Errorf("%w: it begins with %q, want %q", ErrExchange, b[:8], exchangeMagic)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != LayoutVersion {
		return fmt.Errorf("%w: it has layout version %d, want %d", ErrExchange, v, LayoutVersion)
	}
	if v := binary.LittleEndian.Uint32(b[12:]); v != 0 {
		return fmt.Errorf("%w: its reserved word is %#x, want 0", ErrExchange, v)
	}
	if n := len(from.Files); n != 1 {
		return fmt.Errorf("%w: it has passed %d descriptors, want 1", ErrExchange, n)
	}
	return lost(said)
}

// confirm tells the peer that this side is ready, and waits until the peer is.
func confirm(from *fdpass.Reader) error {
	_, said := from.Conn.Write([]byte{exchangeReady})
	var b [1]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		return lost(err)
	}
	if b[0] != exchangeReady {
		return fmt.Errorf("%w: it says %d when it is ready, want %d", ErrExchange, b[0], exchangeReady)
	}
	if n := len(from.Files); n != 1 {
		return fmt.Errorf("%w: it has passed %d more descriptors", ErrExchange, n-1)
	}
	return lost(said)
}

// lost turns an error of the connection that says that the peer is gone into [ErrPeerGone].
func lost(err error) error {
	if errors.Is(err, fdpass.ErrTooManyFiles) {
		return fmt.Errorf("%w: it has passed too many descriptors: %w", ErrExchange, err)
	}
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return ErrPeerGone
		}
	}
	return err
}
