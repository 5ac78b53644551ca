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
	file := drivers.Handle{Number: 9, Region: drivers.FileRegion, Size: 5}
	f.Add([]byte("pay"), file.Append(list(2)), true)
	f.Add([]byte(nil), list(make([]uint64, ipc.MaxBuffers+1)...), true)
	f.Fuzz(func(t *testing.T, b, handles []byte, owned bool) {
		payload, a, err := new(Session).unpack(bytes.Clone(b), handles, nil, owned)
		defer a.Release()
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrProtocol)
			return
		}
		var sizes []drivers.Handle
		for list := handles; len(list) > 0; {
			h, rest, err := drivers.NextHandle(list)
			require.NoError(t, err)
			if list = rest; h.Region != drivers.FileRegion { // a file is the link's
				sizes = append(sizes, h)
			}
		}
		require.Len(t, a.Buffers, len(sizes))
		require.LessOrEqual(t, len(a.Buffers), ipc.MaxBuffers)
		all := bytes.Clone(payload)
		for i, part := range a.Buffers {
			require.Equal(t, sizes[i].Number, a.Buffers[i].Number)
			require.Equal(t, sizes[i].Size, uint64(part.What.Len()))
			all = append(all, part.What.Bytes()...)
		}
		require.True(t, bytes.Equal(b, all))
	})
}
