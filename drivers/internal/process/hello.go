package process

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

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
func HearHello(r io.Reader, local ipc.Hello, said error) (ipc.Hello, error) {
	remote, err := ipc.ReadHello(r)
	var refused *ipc.RefusedError
	switch {
	case said != nil && !errors.As(err, &refused):
		return ipc.Hello{}, said
	case err != nil:
		return ipc.Hello{}, fmt.Errorf("tandem: %s: read the hello of the other side: %w", local.Driver, err)
	}
	return remote, ipc.Agree(local, remote)
}

// Hello completes h with what names this program and this run.
func Hello(h ipc.Hello, driver string, layout int) ipc.Hello {
	h.Protocol = ipc.ProtocolVersion
	h.Driver = driver
	h.Layout = layout
	h.ByteOrder = ipc.ByteOrderMark
	h.PID = os.Getpid()
	h.StartTime = StartTime(h.PID)
	h.Nonce = nonce()
	return h
}
