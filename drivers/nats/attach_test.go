package natsipc

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
)

// Messages with buffers come out as they went in, and whatever else comes is refused or is no larger than it is.
func FuzzUnpack(f *testing.F) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		message := make([]byte, r.IntN(100))
		a := new(ipc.Attachments)
		var want [][]byte
		for range r.IntN(6) {
			b := bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(300))
			want = append(want, b)
			a.Add(r.Uint64(), ipc.NewBuffer(privateMemory(b)))
		}
		packed, err := pack(message, a, 1<<20)
		require.NoError(f, err)
		_, err = pack(message, a, len(packed)-1)
		var size *ipc.SizeError
		require.ErrorAs(f, err, &size)
		got, back, err := unpack(packed, seed%2 == 0)
		require.NoError(f, err)
		require.Equal(f, message, got)
		require.Len(f, back.Buffers, len(want))
		for i, b := range back.Buffers {
			require.Equal(f, a.Buffers[i].Number, b.Number)
			require.True(f, bytes.Equal(want[i], b.What.Bytes()))
		}
		a.Release()
		back.Release()
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		message, a, err := unpack(b, false)
		if err != nil {
			require.ErrorIs(t, err, ipc.ErrProtocol)
			return
		}
		size := len(message)
		require.Equal(t, size, cap(message))
		for _, b := range a.Buffers {
			size += b.What.Len()
			require.Equal(t, b.What.Len(), cap(b.What.Bytes()))
		}
		require.LessOrEqual(t, size, len(b)-4)
		a.Release()
	})
}
