//go:build unix

package arrowipc_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// The contract of the test worker.
var (
	// echo returns the rows from the second on, of each batch.
	echo = ipc.NewBidiStream[arrowipc.Item, arrowipc.Item]("test.echo")
	// sum adds the numbers of the first column.
	sum = ipc.NewClientStream[arrowipc.Item, int64]("test.sum")
	// sumOne is sum as a call, of one batch.
	sumOne = ipc.NewMethod[ipc.Buffer, int64]("test.sum_one")
	// count sends batches of numbers below.
	count = ipc.NewServerStream[int, arrowipc.Item]("test.count")
	// tail is echo as a call.
	tail = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("test.tail", ipc.WithCodec(ipc.Raw))
	// die takes some batches, holds them, and dies.
	die = ipc.NewClientStream[arrowipc.Item, int64]("test.die")
)

func TestMain(m *testing.M) {
	worker.Main("arrow", serve)
	os.Exit(m.Run())
}

func serve() error {
	s := worker.NewServer()
	arena := ipc.NewArena(ipc.ArenaOptions{})
	worker.HandleBidiStream(s, echo, func(ctx context.Context, in *ipc.Receiver[arrowipc.Item], out *ipc.Sender[arrowipc.Item]) error {
		r := arrowipc.NewReceiver(in, arrowipc.ReadOptions{})
		defer r.Close()
		var back *arrowipc.Sender
		for rec, err := range r.All(ctx) {
			if err != nil {
				return err
			}
			if back == nil {
				if back, err = arrowipc.NewSender(arena, r.Schema(), out); err != nil {
					return err
				}
				defer back.Close()
			}
			part := rec.NewSlice(min(1, rec.NumRows()), rec.NumRows())
			err = back.Send(ctx, part)
			part.Release()
			rec.Release()
			if err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleClientStream(s, sum, func(ctx context.Context, in *ipc.Receiver[arrowipc.Item]) (total int64, err error) {
		for rec, err := range arrowipc.NewReceiver(in, arrowipc.ReadOptions{Schema: numbers}).All(ctx) {
			if err != nil {
				return 0, err
			}
			total += add(rec)
			rec.Release()
		}
		return total, nil
	})
	worker.Handle(s, sumOne, func(_ context.Context, b ipc.Buffer) (int64, error) {
		rec, err := arrowipc.Decode(b, arrowipc.ReadOptions{})
		if err != nil {
			return 0, err
		}
		defer rec.Release()
		return add(rec), nil
	})
	worker.HandleServerStream(s, count, func(ctx context.Context, batches int, out *ipc.Sender[arrowipc.Item]) error {
		s, err := arrowipc.NewSender(arena, numbers, out)
		if err != nil {
			return err
		}
		defer s.Close()
		for i := range batches {
			rec := makeNumbers(1000*i, 1000)
			err := s.Send(ctx, rec)
			rec.Release()
			if err != nil {
				return err
			}
		}
		return nil
	})
	worker.Handle(s, tail, func(ctx context.Context, b ipc.Buffer) (ipc.Buffer, error) {
		rec, err := arrowipc.Decode(b, arrowipc.ReadOptions{})
		if err != nil {
			return ipc.Buffer{}, err
		}
		defer rec.Release()
		part := rec.NewSlice(min(1, rec.NumRows()), rec.NumRows())
		defer part.Release()
		return arrowipc.Encode(ctx, arena, part)
	})
	worker.HandleClientStream(s, die, func(ctx context.Context, in *ipc.Receiver[arrowipc.Item]) (int64, error) {
		r := arrowipc.NewReceiver(in, arrowipc.ReadOptions{})
		for range 3 {
			if _, err := r.Receive(ctx); err != nil {
				return 0, err
			}
		}
		return 0, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	return s.Serve(context.Background())
}

// withWorkers runs f with a worker of each driver.
func withWorkers(t *testing.T, f func(t *testing.T, c ipc.Starter)) {
	t.Run((shm.Driver{}).Name(), func(t *testing.T) {
		if err := ring.Supported(); err != nil {
			t.Skip(err)
		}
		w, err := worker.Spawn(t.Context(), worker.Self("arrow"), shm.Driver{})
		require.NoError(t, err)
		defer w.Close()
		f(t, w)
	})
	t.Run((socket.Driver{}).Name(), func(t *testing.T) {
		w, err := worker.Spawn(t.Context(), worker.Self("arrow"), socket.Driver{})
		if err != nil {
			t.Skip(err) // there are systems without workers
		}
		defer w.Close()
		f(t, w)
	})
}

// Batches of all types go to another process and come back as slices, as items and by calls.
func TestBetweenProcesses(t *testing.T) {
	withWorkers(t, func(t *testing.T, c ipc.Starter) {
		arena := ipc.NewArena(ipc.ArenaOptions{})
		st, err := echo.Open(t.Context(), c)
		require.NoError(t, err)
		defer st.Close()
		var s *arrowipc.Sender
		r := arrowipc.NewReceiver(st, arrowipc.ReadOptions{})
		defer r.Close()
		for i, n := range []int{0, 1, 3, 100, 5000, 10} {
			rec := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(uint64(i), 1)), n, types...)
			defer rec.Release()
			want := rec.NewSlice(min(1, rec.NumRows()), rec.NumRows())
			defer want.Release()
			if s == nil {
				s, err = arrowipc.NewSender(arena, rec.Schema(), st)
				require.NoError(t, err)
				defer s.Close()
			}
			require.NoError(t, s.Send(t.Context(), rec))
			got, err := r.Receive(t.Context())
			require.NoError(t, err)
			requireSame(t, want, got)
			got.Release()

			b, err := arrowipc.Encode(t.Context(), arena, rec)
			require.NoError(t, err)
			back, err := tail.Call(t.Context(), c, b)
			require.NoError(t, err)
			b.Release()
			got, err = arrowipc.Decode(back, arrowipc.ReadOptions{Schema: rec.Schema()})
			require.NoError(t, err)
			back.Release()
			requireSame(t, want, got)
			got.Release()
		}
		require.NoError(t, st.CloseSend(t.Context()))
		_, err = r.Receive(t.Context())
		require.EqualError(t, err, "EOF")
	})
}

// The kinds of streams with one direction of batches.
func TestOneWay(t *testing.T) {
	withWorkers(t, func(t *testing.T, c ipc.Starter) {
		st, err := sum.Open(t.Context(), c)
		require.NoError(t, err)
		defer st.Close()
		s, err := arrowipc.NewSender(ipc.NewArena(ipc.ArenaOptions{Limit: 1 << 20}), numbers, st)
		require.NoError(t, err)
		defer s.Close()
		const batches, rows = 100, 10_000 // some times what the arena has
		for i := range batches {
			rec := makeNumbers(i*rows, rows)
			require.NoError(t, s.Send(t.Context(), rec))
			rec.Release()
		}
		total, err := st.CloseAndReceive(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(batches*rows)*(batches*rows-1)/2, total)

		in, err := count.Open(t.Context(), c, 50)
		require.NoError(t, err)
		defer in.Close()
		total = 0
		for rec, err := range arrowipc.NewReceiver(in, arrowipc.ReadOptions{Schema: numbers}).All(t.Context()) {
			require.NoError(t, err)
			total += add(rec)
			rec.Release()
		}
		require.EqualValues(t, 50*1000*(50*1000-1)/2, total)
	})
}

// A batch of another schema is an error for its sender, and if it is sent, for its receiver.
func TestAnotherSchema(t *testing.T) {
	withWorkers(t, func(t *testing.T, c ipc.Starter) {
		arena := ipc.NewArena(ipc.ArenaOptions{})
		other := makeRecord(t, memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), 3, arrow.BinaryTypes.String)
		defer other.Release()
		for _, schema := range []*arrow.Schema{numbers, other.Schema()} {
			st, err := sum.Open(t.Context(), c)
			require.NoError(t, err)
			defer st.Close()
			s, err := arrowipc.NewSender(arena, schema, st)
			require.NoError(t, err)
			defer s.Close()
			err = s.Send(t.Context(), other)
			if schema == numbers {
				require.ErrorIs(t, err, arrowipc.ErrSchema)
				rec := makeNumbers(5, 1) // the stream goes on
				defer rec.Release()
				require.NoError(t, s.Send(t.Context(), rec))
			} else {
				require.NoError(t, err)
			}
			total, err := st.CloseAndReceive(t.Context())
			if schema == numbers {
				require.NoError(t, err)
				require.EqualValues(t, 5, total)
				continue
			}
			require.ErrorContains(t, err, arrowipc.ErrSchema.Error())
			var remote *ipc.Error
			require.True(t, errors.As(err, &remote) && remote.Remote())
		}
	})
}

// When a worker dies with batches that it holds its host is told, and may use the arena on.
func TestWorkerDiesWithBatches(t *testing.T) {
	withWorkers(t, func(t *testing.T, c ipc.Starter) {
		const rows, limit = 8 << 10, 4 << 20
		arena := ipc.NewArena(ipc.ArenaOptions{Limit: limit})
		st, err := die.Open(t.Context(), c)
		require.NoError(t, err)
		defer st.Close()
		s, err := arrowipc.NewSender(arena, numbers, st)
		require.NoError(t, err)
		defer s.Close()
		for err == nil {
			rec := makeNumbers(0, rows)
			err = s.Send(t.Context(), rec)
			rec.Release()
		}
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		var held []ipc.Buffer
		for range limit/(16*rows) - 2 { // what there is not while the dead one holds three
			b, err := arena.Alloc(t.Context(), 8*rows+512)
			require.NoError(t, err)
			held = append(held, b)
		}
		for _, b := range held {
			b.Release()
		}
	})
}
