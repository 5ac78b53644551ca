package arrowipc_test

import (
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc/arrowipc"
)

// schemaBuilder makes metadata whose parts refer to each other as no writer would let them.
type schemaBuilder struct{ *flatbuffers.Builder }

func (b schemaBuilder) list(parts ...flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartVector(4, len(parts), 4)
	for i := len(parts) - 1; i >= 0; i-- {
		b.PrependUOffsetT(parts[i])
	}
	return b.EndVector(len(parts))
}

func repeat(part flatbuffers.UOffsetT, n int) []flatbuffers.UOffsetT {
	parts := make([]flatbuffers.UOffsetT, n)
	for i := range parts {
		parts[i] = part
	}
	return parts
}

// field adds a field of a type, which is a table with at most one number. All arguments but kind may be 0.
func (b schemaBuilder) field(kind byte, name, children, pairs flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartObject(2)
	t := b.EndObject()
	b.StartObject(7)
	b.PrependUOffsetTSlot(0, name, 0)
	b.PrependByteSlot(2, kind, 0)
	b.PrependUOffsetTSlot(3, t, 0)
	b.PrependUOffsetTSlot(5, children, 0)
	b.PrependUOffsetTSlot(6, pairs, 0)
	return b.EndObject()
}

func (b schemaBuilder) pair(key, value flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartObject(2)
	b.PrependUOffsetTSlot(0, key, 0)
	b.PrependUOffsetTSlot(1, value, 0)
	return b.EndObject()
}

// message returns the message of a schema with the fields and the pairs.
func (b schemaBuilder) message(fields, pairs flatbuffers.UOffsetT) []byte {
	b.StartObject(4)
	b.PrependUOffsetTSlot(1, fields, 0)
	b.PrependUOffsetTSlot(2, pairs, 0)
	schema := b.EndObject()
	b.StartObject(5)
	b.PrependInt16Slot(0, 4, 0)
	b.PrependByteSlot(1, 1, 0)
	b.PrependUOffsetTSlot(2, schema, 0)
	b.Finish(b.EndObject())
	meta := b.FinishedBytes()
	data := binary.LittleEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0xff}, uint32(len(meta)))
	return append(data, meta...)
}

// Schemas that refer to the same bytes again and again are refused, or take a few times the memory that
// they have; the time that is taken is that of the test's own limit.
func TestHostileSchemas(t *testing.T) {
	const (
		null      = 1
		integer   = 2
		structure = 13
		megabyte  = 1 << 20
	)
	for name, build := range map[string]func(b schemaBuilder) []byte{
		"many times one field": func(b schemaBuilder) []byte {
			f := b.field(null, 0, 0, 0)
			return b.message(b.list(repeat(f, megabyte/4)...), 0)
		},
		"as many fields as are taken": func(b schemaBuilder) []byte {
			b.CreateString(strings.Repeat("x", 6*megabyte))
			f := b.field(null, 0, 0, 0)
			return b.message(b.list(repeat(f, 6*megabyte/32)...), 0)
		},
		"each field twice in the next": func(b schemaBuilder) []byte {
			f := b.field(null, 0, 0, 0)
			for range 50 {
				f = b.field(structure, 0, b.list(f, f), 0)
			}
			return b.message(b.list(f), 0)
		},
		"very deep": func(b schemaBuilder) []byte {
			f := b.field(null, 0, 0, 0)
			for range 100_000 {
				f = b.field(structure, 0, b.list(f), 0)
			}
			return b.message(b.list(f), 0)
		},
		"one long name for all": func(b schemaBuilder) []byte {
			f := b.field(null, b.CreateString(strings.Repeat("n", megabyte)), 0, 0)
			return b.message(b.list(repeat(f, 1000)...), 0)
		},
		"one long value for all": func(b schemaBuilder) []byte {
			v := b.CreateString(strings.Repeat("v", megabyte))
			return b.message(b.list(), b.list(repeat(b.pair(v, v), 1000)...))
		},
		"as many pairs as are taken": func(b schemaBuilder) []byte {
			b.CreateString(strings.Repeat("x", 6*megabyte))
			f := b.field(null, 0, 0, b.list(repeat(b.pair(b.CreateString("k"), b.CreateString("v")), 6*megabyte/32)...))
			return b.message(b.list(f), 0)
		},
		"fields without a type": func(b schemaBuilder) []byte {
			b.StartObject(7)
			return b.message(b.list(b.EndObject()), 0)
		},
		"children of a number": func(b schemaBuilder) []byte {
			return b.message(b.list(b.field(integer, 0, b.list(b.field(null, 0, 0, 0)), 0)), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := build(schemaBuilder{flatbuffers.NewBuilder(1024)})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := decodeHostile(t, data, arrowipc.ReadOptions{})
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			got := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes took %d: %.200v", len(data), got, err)
			require.Less(t, got, 32*uint64(len(data))+megabyte)
		})
	}
}
