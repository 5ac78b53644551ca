package process

import (
	"crypto/rand"
	"encoding/binary"
	"os"
	"sync"

	"github.com/tandemipc/tandem/ipc"
)

var nonce = sync.OnceValue(func() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
})

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
