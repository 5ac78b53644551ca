package process

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

var nonce = sync.OnceValue(func() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
})

// HearHello reads the peer's hello from r and compares it with local, ours. said is
// what saying ours came to. A peer that refuses and hangs up may do so before it
// has heard us; then its reason is the error, and not that we could not speak.
func HearHello(r io.Reader, local drivers.Hello, said error) (drivers.Hello, error) {
	remote, err := drivers.ReadHello(r)
	var refused *ipc.RefusedError
	switch {
	case said != nil && !errors.As(err, &refused):
		return drivers.Hello{}, said
	case err != nil:
		return drivers.Hello{}, fmt.Errorf("tandem: %s: read the hello of the other side: %w", local.Driver, err)
	}
	return remote, drivers.Agree(local, remote)
}

// Hello completes h with what names this program and this run.
func Hello(h drivers.Hello, driver string, layout int) drivers.Hello {
	h.Protocol = drivers.ProtocolVersion
	h.Driver = driver
	h.Layout = layout
	h.ByteOrder = drivers.ByteOrderMark
	h.PID = os.Getpid()
	h.StartTime = ownStartTime()
	h.Nonce = nonce()
	h.Window = drivers.DefaultWindow
	return h
}
