package process

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var nonce = sync.OnceValue(func() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
})

// self is what hellos say of this process.
var self struct {
	sync.Mutex
	known bool
	start uint64
}

// Identify finds out when this process has started, which [Hello] then says. Drivers to
// which that matters call it before Hello. It fails only for a shortage.
func Identify() error {
	self.Lock()
	defer self.Unlock()
	if self.known {
		return nil
	}
	start, err := startTime("self")
	self.known, self.start = err == nil, start
	return Shortage(err)
}

// HearHello reads the peer's hello from r and compares it with local, ours. said is
// what saying ours came to. A peer that refuses and hangs up may do so before it
// has heard us; then its reason is the error, and not that we could not speak.
func HearHello(r io.Reader, local drivers.Hello, said error) (drivers.Hello, error) {
	remote, err := drivers.ReadHello(r)
	if err := heard(err, said, local.Driver, "hello"); err != nil {
		return drivers.Hello{}, err
	}
	return remote, drivers.Agree(local, remote)
}

// Confirm tells the peer that this side has all that the link needs, and waits for the
// peer to say the same. It fails with an [*ipc.RefusedError] if the peer cannot.
func Confirm(conn io.ReadWriter, driver string) error {
	_, said := conn.Write(drivers.AppendReady(nil))
	if said != nil {
		said = fmt.Errorf("tandem: %s: confirm the link: %w", driver, said)
	}
	return lost(heard(drivers.ReadReady(conn), said, driver, "confirmation"))
}

// Refuse tells the peer why there will be no link, if it still listens and has not told us
// so itself.
func Refuse(conn io.Writer, why error) {
	var refused *ipc.RefusedError
	if !errors.As(why, &refused) {
		_, _ = conn.Write(drivers.AppendReason(nil, why))
	}
}

// heard returns the error of an exchange: err is that of hearing what the peer had to say,
// and said that of speaking to it.
func heard(err, said error, driver, what string) error {
	var refused *ipc.RefusedError
	switch {
	case said != nil && !errors.As(err, &refused):
		return said
	case err != nil:
		return fmt.Errorf("tandem: %s: read the %s of the other side: %w", driver, what, err)
	}
	return nil
}

// startedAt returns when this process has started, or 0 if that is not known.
func startedAt() uint64 {
	_ = Identify() // whoever needs to know has called it before
	self.Lock()
	defer self.Unlock()
	return self.start
}

// HearFirstHello is HearHello over the control socket, whose ends only the host and its
// worker have: who hangs up there is gone, and nobody else can be served first.
func HearFirstHello(r io.Reader, local drivers.Hello, said error) (drivers.Hello, error) {
	remote, err := HearHello(r, local, said)
	if errors.Is(err, ipc.ErrQueued) {
		err = fmt.Errorf("%w: %w on the control socket", ipc.ErrProtocol, err)
	}
	return remote, lost(err)
}

// lost adds [ipc.ErrPeerGone] to an error that says that the other side has hung up.
func lost(err error) error {
	if HungUp(err) {
		return fmt.Errorf("%w: %w", ipc.ErrPeerGone, err)
	}
	return err
}

// HungUp reports whether err says that the other side has hung up.
func HungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// Hello completes h with what names this program and this run.
func Hello(h drivers.Hello, driver string, layout int) drivers.Hello {
	h.Protocol = drivers.ProtocolVersion
	h.Driver = driver
	h.Layout = layout
	h.ByteOrder = drivers.ByteOrderMark
	h.PID = os.Getpid()
	h.StartTime = startedAt()
	h.Nonce = nonce()
	return h
}
