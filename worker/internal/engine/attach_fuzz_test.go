package engine

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// FuzzUnpack takes buffers out of a payload by any list of handles. What it yields is the payload,
// cut into pieces, or an error of the protocol.
func FuzzUnpack(f *testing.F) {
	list := func(sizes ...uint64) (b []byte) {
		for i, n := range sizes {
			h := drivers.Handle{Number: uint64(i), Size: n}
			b = h.Append(b)
		}
		return b
	}
	f.Add([]byte("payload12345"), list(2, 3), true)
	f.Add([]byte("payload12345"), list(0, 12, 0), false)
	f.Add([]byte("payload12345"), list(13), false)
	f.Add([]byte("payload12345"), list(8, 1<<64-8), true)
	f.Add([]byte("x"), list(1)[:20], true)
	f.Add([]byte(nil), list(make([]uint64, ipc.MaxBuffers+1)...), true)
	f.Fuzz(func(t *testing.T, b, handles []byte, owned bool) {
		payload, a, err := unpack(bytes.Clone(b), handles, nil, owned)
		defer a.Release()
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrProtocol)
			return
		}
		require.Len(t, a.Buffers, len(handles)/drivers.HandleSize)
		require.LessOrEqual(t, len(a.Buffers), ipc.MaxBuffers)
		all := bytes.Clone(payload)
		for i, part := range a.Buffers {
			h, rest, err := drivers.NextHandle(handles)
			require.NoError(t, err)
			handles = rest
			require.Equal(t, h.Number, a.Buffers[i].Number)
			require.Equal(t, h.Size, uint64(part.What.Len()))
			all = append(all, part.What.Bytes()...)
		}
		require.True(t, bytes.Equal(b, all))
	})
}
