//go:build unix

package arrowipc_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
	"github.com/tandemipc/tandem/worker"
)

// A batch of 1 MiB whose column of numbers is added up: in this process, and in a worker that
// answers with the sum. The batch lies in the arena, or is put there each time.
func BenchmarkSum(b *testing.B) {
	const rows = 1 << 17
	rec := makeNumbers(1, rows)
	defer rec.Release()
	want := add(rec)
	b.Run("same-process", func(b *testing.B) {
		b.SetBytes(8 * rows)
		for b.Loop() {
			if add(rec) != want {
				b.Fatal("another sum")
			}
		}
	})
	b.Run("same-process-copied", func(b *testing.B) {
		arena := ipc.NewArena(ipc.ArenaOptions{})
		b.SetBytes(8 * rows)
		for b.Loop() {
			m, err := arrowipc.Encode(b.Context(), arena, rec)
			require.NoError(b, err)
			got, err := arrowipc.Decode(m, arrowipc.ReadOptions{})
			require.NoError(b, err)
			if add(got) != want {
				b.Fatal("another sum")
			}
			got.Release()
			m.Release()
		}
	})
	b.Run("shm", func(b *testing.B) { benchmarkSum(b, shm.Driver{}, rec, want) })
	b.Run("socket", func(b *testing.B) { benchmarkSum(b, socket.Driver{}, rec, want) })
}

func benchmarkSum[C drivers.Channel](b *testing.B, driver drivers.Driver[C], rec arrow.RecordBatch, want int64) {
	w, err := worker.Spawn(b.Context(), worker.Self("arrow"), driver)
	if err != nil {
		b.Skip(err)
	}
	defer w.Close()
	arena := ipc.NewArena(ipc.ArenaOptions{})
	b.Run("call", func(b *testing.B) { // with a batch that lies in the arena
		m, err := arrowipc.Encode(b.Context(), arena, rec)
		require.NoError(b, err)
		defer m.Release()
		b.SetBytes(8 * rec.NumRows())
		for b.Loop() {
			if got, err := sumOne.Call(b.Context(), w, m); err != nil || got != want {
				b.Fatal(got, err)
			}
		}
	})
	b.Run("call-copied", func(b *testing.B) { // which is put into the arena each time
		b.SetBytes(8 * rec.NumRows())
		for b.Loop() {
			m, err := arrowipc.Encode(b.Context(), arena, rec)
			require.NoError(b, err)
			if got, err := sumOne.Call(b.Context(), w, m); err != nil || got != want {
				b.Fatal(got, err)
			}
			m.Release()
		}
	})
	b.Run("stream", func(b *testing.B) {
		st, err := sum.Open(b.Context(), w)
		require.NoError(b, err)
		defer st.Close()
		s, err := arrowipc.NewSender(arena, numbers, st)
		require.NoError(b, err)
		defer s.Close()
		b.SetBytes(8 * rec.NumRows())
		n := int64(0)
		for b.Loop() {
			require.NoError(b, s.Send(b.Context(), rec))
			n++
		}
		got, err := st.CloseAndReceive(b.Context())
		require.NoError(b, err)
		require.Equal(b, n*want, got)
	})
}

// What a batch costs beside its bytes: encoding, decoding, and both as items of a stream.
func BenchmarkSmallBatch(b *testing.B) {
	arena := ipc.NewArena(ipc.ArenaOptions{})
	rec := makeNumbers(0, 8)
	defer rec.Release()
	m, err := arrowipc.Encode(b.Context(), arena, rec)
	require.NoError(b, err)
	defer m.Release()
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m, err := arrowipc.Encode(b.Context(), arena, rec)
			if err != nil {
				b.Fatal(err)
			}
			m.Release()
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got, err := arrowipc.Decode(m, arrowipc.ReadOptions{})
			if err != nil {
				b.Fatal(err)
			}
			got.Release()
		}
	})
	b.Run("item", func(b *testing.B) {
		b.ReportAllocs()
		var p pipe
		s, err := arrowipc.NewSender(arena, numbers, &p)
		require.NoError(b, err)
		r := arrowipc.NewReceiver(&p, arrowipc.ReadOptions{})
		for b.Loop() {
			if err := s.Send(b.Context(), rec); err != nil {
				b.Fatal(err)
			}
			got, err := r.Receive(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			got.Release()
			p.items = p.items[:0]
		}
	})
}
