package natsipc

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// The bytes of buffers travel with the message that names them: the message, the bytes of each buffer, the number
// and the size of each in varints, and in four bytes how long all these numbers and sizes are.

// pack returns a message with its attachments, of most bytes at most. They stay the caller's.
func pack(message []byte, a *ipc.Attachments, most int) ([]byte, error) {
	if len(a.Files) > 0 {
		return nil, ipc.Errorf(ipc.CodeUnimplemented, "%w: no files are passed over NATS", ipc.ErrUnsupported)
	}
	var table []byte
	size := len(message)
	for i := range a.Buffers {
		n := a.Buffers[i].What.Len()
		size += n
		table = binary.AppendUvarint(binary.AppendUvarint(table, a.Buffers[i].Number), uint64(n))
	}
	if size += len(table) + 4; size > most {
		return nil, &ipc.SizeError{Size: size, Limit: most}
	}
	packed := append(make([]byte, 0, size), message...)
	for i := range a.Buffers {
		packed = append(packed, a.Buffers[i].What.Bytes()...)
	}
	return binary.LittleEndian.AppendUint32(append(packed, table...), uint32(len(table))), nil
}

var errBuffers = fmt.Errorf("%w: a message over NATS with malformed buffers", ipc.ErrProtocol)

// unpack undoes pack for what may be hostile. The buffers lie in b, unless borrowed says that it is used again.
func unpack(b []byte, borrowed bool) (message []byte, a *ipc.Attachments, err error) {
	end := len(b) - 4
	if end < 0 || uint64(binary.LittleEndian.Uint32(b[end:])) > uint64(end) {
		return nil, nil, errBuffers
	}
	begin := end - int(binary.LittleEndian.Uint32(b[end:]))
	var numbers [][2]uint64
	rest := uint64(begin)
	for table := b[begin:end]; len(table) > 0; {
		var entry [2]uint64
		for i := range entry {
			v, n := binary.Uvarint(table)
			if n <= 0 {
				return nil, nil, errBuffers
			}
			entry[i], table = v, table[n:]
		}
		if entry[1] > rest || len(numbers) == ipc.MaxBuffers {
			return nil, nil, errBuffers
		}
		rest -= entry[1]
		numbers = append(numbers, entry)
	}
	message, b = b[:rest:rest], b[rest:begin]
	if borrowed {
		b = slices.Clone(b)
	}
	a = new(ipc.Attachments)
	for _, n := range numbers {
		a.Add(n[0], ipc.NewBuffer(privateMemory(b[:n[1]:n[1]])))
		b = b[n[1]:]
	}
	return message, a, nil
}

// privateMemory is that of a buffer that has come. No other process has it.
type privateMemory []byte

// Bytes implements [ipc.Backing].
func (m privateMemory) Bytes() []byte { return m }

// Region implements [ipc.Backing].
func (m privateMemory) Region() (ipc.Region, int) { return nil, 0 }

// Frozen implements [ipc.Backing]: no other process can write the memory.
func (m privateMemory) Frozen() bool { return true }

// Free implements [ipc.Backing]: the garbage collector frees it.
func (m privateMemory) Free(bool) {}

// sendItem sends an item of a stream, which has buffers if attached is set.
func sendItem(ctx context.Context, f *flow.Flow, item []byte, attached bool) error {
	if attached {
		return f.SendAttached(ctx, item)
	}
	return f.Send(ctx, item)
}

// give gives the caller of inv the attachments of an answer.
func give(inv *ipc.Invocation, a *ipc.Attachments) {
	if a == nil || inv.Received == nil { // nobody asks for them
		a.Release()
		return
	}
	inv.Received.Release() // of an attempt before
	inv.Received.Move(a)
}
