//go:build unix

package worker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

var (
	// inOrder says, to a request of eight bytes, how many came that were not the next
	// after the one before.
	inOrder = ipc.NewMethod[[]byte, []byte]("test.in_order", ipc.WithCodec(ipc.Raw))
	// mixed answers at once, or slowly, or with an error.
	mixed = ipc.NewMethod[[]byte, []byte]("test.mixed", ipc.WithCodec(ipc.Raw))
)

func servePipelines(s *worker.Server) {
	var last, jumps uint64
	worker.Handle(s, inOrder, func(_ context.Context, b []byte) ([]byte, error) {
		if n := binary.LittleEndian.Uint64(b); n != 0 {
			if n != last+1 {
				jumps++
			}
			last = n
		}
		return binary.LittleEndian.AppendUint64(nil, jumps), nil
	}, worker.WithConcurrency(1))
	worker.Handle(s, mixed, func(_ context.Context, b []byte) ([]byte, error) {
		switch b[0] % 16 {
		case 3:
			time.Sleep(200 * time.Microsecond)
		case 7:
			return nil, ipc.NewError(ipc.CodeNotFound, string(b[1:]))
		}
		return b, nil
	}, worker.WithInline())
}

func numbered(n uint64, rest int) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), make([]byte, rest)...)
}

func TestFutures(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx := t.Context()
		const calls = 2000
		var all [calls]*ipc.Future[int]
		for _, how := range []string{"in order", "in reverse", "elsewhere"} {
			for i := range all {
				f, err := add.Go(ctx, w, pair{i, i})
				require.NoError(t, err)
				all[i] = f
			}
			check := func(i int) {
				sum, err := all[i].Wait(context.Background())
				assert.NoError(t, err)
				assert.Equal(t, 2*i, sum)
			}
			var wg sync.WaitGroup
			for i := range all {
				switch how {
				case "in order":
					check(i)
				case "in reverse":
					check(calls - 1 - i)
				default:
					wg.Go(func() { check(i) })
				}
			}
			wg.Wait()
		}
		sum, err := all[7].Wait(context.Background())
		require.NoError(t, err)
		require.Equal(t, 14, sum, "a second Wait says the same")
		require.True(t, all[7].Done())

		f, err := rawEcho.Go(ctx, w, filled(3<<20))
		require.NoError(t, err)
		eventually(t, "done though nobody waits", f.Done)
		b, err := f.Wait(context.Background())
		require.NoError(t, err)
		require.Len(t, b, 3<<20)

		failing, err := fail.Go(ctx, w, "code")
		require.NoError(t, err)
		for range 2 {
			_, err = failing.Wait(context.Background())
			require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
		}
		_, err = unknown.Go(ctx, w, 1)
		require.NoError(t, err, "that is found out later")
	})
}

// What is in flight and its answers may be far more than the link holds.
func TestManyLargeFutures(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		var all []*ipc.Future[[]byte]
		for i := range 400 {
			f, err := rawEcho.Go(t.Context(), w, numbered(uint64(i), 20<<10))
			require.NoError(t, err)
			all = append(all, f)
		}
		for i, f := range all {
			b, err := f.Wait(context.Background())
			require.NoError(t, err)
			require.Equal(t, uint64(i), binary.LittleEndian.Uint64(b))
		}
	})
}

func TestAbandon(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		ctx := t.Context()
		for range 10 {
			f, err := block.Go(ctx, w, "given up")
			require.NoError(t, err)
			require.False(t, f.Done())
			f.Abandon()
			f.Abandon()
			require.True(t, f.Done())
			_, err = f.Wait(context.Background())
			require.ErrorIs(t, err, ipc.ErrAbandoned)
		}
		eventually(t, "their contexts have ended", func() bool { return count(t, w, "given up.end") == count(t, w, "given up.begin") })

		// In a batch a request that is given up is not even sent.
		require.NoError(t, ipc.Batch(ctx, w, func(c ipc.Caller) error {
			a, err := block.Go(ctx, c, "withdrawn")
			require.NoError(t, err)
			b, err := add.Go(ctx, c, pair{1, 2})
			require.NoError(t, err)
			a.Abandon()
			sum, err := b.Wait(context.Background())
			require.NoError(t, err)
			require.Equal(t, 3, sum)
			late, err := block.Go(ctx, c, "sent")
			require.NoError(t, err)
			_, err = add.Call(ctx, c, pair{})
			require.NoError(t, err)
			late.Abandon()
			return nil
		}))
		eventually(t, "the one that was sent has ended", func() bool { return count(t, w, "sent.end") == count(t, w, "sent.begin") })
		require.Zero(t, count(t, w, "withdrawn.begin"))
		require.NoError(t, w.Close(), "nothing is pending")
	})
}

func TestFutureEnds(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		ctx, cancel := context.WithCancel(t.Context())
		f, err := block.Go(ctx, w, "f")
		require.NoError(t, err)
		cancel()
		_, err = f.Wait(context.Background())
		require.Equal(t, context.Canceled, err)

		for _, limit := range []time.Duration{20 * time.Millisecond, 1020 * time.Millisecond} {
			f, err = block.Go(t.Context(), w, "f", ipc.WithTimeout(limit))
			require.NoError(t, err)
			begin := time.Now()
			_, err = f.Wait(context.Background())
			var over *ipc.TimeoutError
			require.ErrorAs(t, err, &over)
			require.Equal(t, limit, over.After)
			require.Less(t, time.Since(begin), 20*time.Second)
		}
		eventually(t, "the handlers have ended", func() bool { return count(t, w, "f.end") == count(t, w, "f.begin") })

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = add.Go(ctx, w, pair{})
		require.Equal(t, context.Canceled, err)

		var all []*ipc.Future[string]
		for range 50 {
			f, err := block.Go(context.Background(), w, "f")
			require.NoError(t, err)
			all = append(all, f)
		}
		stop(t, w.PID())
		f, err = block.Go(t.Context(), w, "f", ipc.WithTimeout(20*time.Millisecond))
		if err == nil {
			_, err = f.Wait(context.Background())
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		for _, f := range all {
			_, err := f.Wait(context.Background())
			var exit *worker.ExitError
			require.ErrorAs(t, err, &exit)
		}
		_, err = block.Go(t.Context(), w, "f")
		require.Error(t, err)
		require.Error(t, w.Close())
		_, err = block.Go(t.Context(), w, "f")
		require.ErrorIs(t, err, ipc.ErrClosed)
		require.ErrorIs(t, ipc.Batch(t.Context(), w, func(ipc.Caller) error { return nil }), ipc.ErrClosed)
	})
}

// A batch keeps the order of what one goroutine sends, whatever it is.
func TestBatchOrder(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx := t.Context()
		n := uint64(0)
		var all []*ipc.Future[[]byte]
		send := func(c ipc.Caller, i int) {
			n++
			size := 0
			if i%13 == 0 {
				size = 40 << 10 // too large to be gathered
			}
			if i%7 == 0 {
				size = 5 << 10 // few of them fit
			}
			switch i % 5 {
			case 0:
				f, err := inOrder.Go(ctx, c, numbered(n, size))
				require.NoError(t, err)
				all = append(all, f)
			case 1:
				if i%35 == 1 {
					_, err := inOrder.Call(ctx, c, numbered(n, size))
					require.NoError(t, err)
					return
				}
				fallthrough
			default:
				require.NoError(t, inOrder.Notify(ctx, c, numbered(n, size)))
			}
		}
		for round := range 10 {
			require.NoError(t, ipc.Batch(ctx, w, func(c ipc.Caller) error {
				for i := range 3 * (round + 1) * 10 {
					send(c, i)
					if i%20 == 9 {
						require.NoError(t, ipc.Batch(ctx, c, func(inner ipc.Caller) error {
							send(inner, 2)
							send(inner, 3)
							return nil
						}))
					}
					if i%30 == 17 { // waits in the middle
						_, err := all[len(all)-1].Wait(context.Background())
						require.NoError(t, err)
					}
				}
				return nil
			}))
			send(w, 1)
		}
		jumps, err := inOrder.Call(ctx, w, numbered(0, 0))
		require.NoError(t, err)
		require.Zero(t, binary.LittleEndian.Uint64(jumps))
		for _, f := range all {
			_, err := f.Wait(context.Background())
			require.NoError(t, err)
		}
	})
}

func TestBatchFails(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		ctx := t.Context()
		w := s.start(t, worker.WithMaxMessage(drivers.MinMaxMessage))
		var good, bad, after *ipc.Future[[]byte]
		err := ipc.Batch(ctx, w, func(c ipc.Caller) (err error) {
			good, err = rawEcho.Go(ctx, c, []byte("a"))
			require.NoError(t, err)
			bad, err = rawEcho.Go(ctx, c, make([]byte, drivers.MinMaxMessage))
			require.NoError(t, err, "it is not sent yet")
			after, err = rawEcho.Go(ctx, c, []byte("b"))
			require.NoError(t, err)
			return nil
		})
		require.ErrorAs(t, err, new(*ipc.SizeError))
		_, err = bad.Wait(context.Background())
		require.ErrorAs(t, err, new(*ipc.SizeError))
		for _, f := range []*ipc.Future[[]byte]{good, after} {
			_, err = f.Wait(context.Background())
			require.NoError(t, err, "the others do not suffer")
		}

		sentinel := errors.New("mine")
		require.Equal(t, sentinel, ipc.Batch(ctx, w, func(c ipc.Caller) error {
			require.NoError(t, notify.Notify(ctx, c, "behind an error"))
			return sentinel
		}))
		var kept ipc.Caller
		require.PanicsWithValue(t, "mine", func() {
			_ = ipc.Batch(ctx, w, func(c ipc.Caller) error {
				kept = c
				require.NoError(t, notify.Notify(ctx, c, "behind a panic"))
				panic("mine")
			})
		})
		eventually(t, "both have arrived", func() bool { return count(t, w, "behind an error")+count(t, w, "behind a panic") == 2 })
		_, err = rawEcho.Call(ctx, kept, []byte("x"))
		require.NoError(t, err, "not to be done, but it does no harm")
		f, err := rawEcho.Go(ctx, kept, []byte("x"))
		require.NoError(t, err)
		_, err = f.Wait(context.Background())
		require.NoError(t, err)
		require.NoError(t, notify.Notify(ctx, kept, "late"))
		eventually(t, "it has arrived", func() bool { return count(t, w, "late") == 1 })
	})
}

// A batch for a worker that reads nothing ends with its context, or with the shortest
// limit; what was sent is answered, and the rest fails.
func TestBatchToStoppedWorker(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		for _, limited := range []bool{false, true} {
			stop(t, w.PID())
			for failed := 0; failed < 3; { // one may fail since this process did not run
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				if failed++; rawEcho.Notify(ctx, w, numbered(1, 1000)) == nil {
					failed = 0
				}
				cancel()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
			var opts []ipc.CallOption
			if limited {
				cancel()
				ctx, cancel = context.WithCancel(t.Context())
				opts = append(opts, ipc.WithTimeout(40*time.Millisecond))
			}
			var all []*ipc.Future[[]byte]
			err := ipc.Batch(ctx, w, func(c ipc.Caller) error {
				for i := range uint64(15) {
					f, err := rawEcho.Go(t.Context(), c, numbered(i, 900), opts...)
					require.NoError(t, err)
					all = append(all, f)
				}
				return nil
			})
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			failed := 0
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
			for i, f := range all {
				b, err := f.Wait(context.Background())
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					failed++
					continue
				}
				require.Equal(t, uint64(i), binary.LittleEndian.Uint64(b))
			}
			require.NotZero(t, failed)
			_, err = add.Call(t.Context(), w, pair{})
			require.NoError(t, err)
		}
		// It is killed in the middle.
		err := ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			for i := range 100 {
				if i == 50 {
					require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
					eventually(t, "the link has ended", func() bool { return !w.Connected() })
				}
				if _, err := add.Go(t.Context(), c, pair{i, i}); err != nil {
					return err
				}
			}
			return nil
		})
		var exit *worker.ExitError
		require.ErrorAs(t, err, &exit)
		require.ErrorAs(t, w.Close(), &exit)
	})
}

// Bursts of requests that are answered at once, later, with errors, in place, or never:
// each answer arrives once, and is the right one.
func TestBursts(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		ctx := t.Context()
		for round := range 5 {
			var all []*ipc.Future[[]byte]
			burst := func(c ipc.Caller) error {
				for i := range 1000 {
					m, request := mixed, append([]byte{byte(i)}, fmt.Sprint(round, i)...)
					if i%16 == 5 {
						m, request = place, placed('c', i)
					}
					f, err := m.Go(ctx, c, request)
					if err != nil {
						return err
					}
					all = append(all, f)
					if i%9 == 0 {
						if err := notify.Notify(ctx, c, "burst"); err != nil {
							return err
						}
					}
				}
				return nil
			}
			if round%2 == 0 {
				require.NoError(t, burst(w))
			} else {
				require.NoError(t, ipc.Batch(ctx, w, burst))
			}
			for i, f := range all {
				b, err := f.Wait(context.Background())
				switch i % 16 {
				case 5:
					require.NoError(t, err)
					require.Equal(t, filled(i), append([]byte{}, b...))
				case 7:
					require.Equal(t, ipc.CodeNotFound, ipc.CodeOf(err))
					require.ErrorContains(t, err, fmt.Sprint(round, i))
				default:
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(round, i), string(b[1:]))
				}
			}
		}
		eventually(t, "all notifications", func() bool { return count(t, w, "burst") == 5*112 })
		require.Zero(t, w.LateResponses(), "nothing was answered twice")
	})
}

// What a worker has answered when it is told to end arrives.
func TestBurstBeforeSIGTERM(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		_, err := add.Call(t.Context(), w, pair{})
		require.NoError(t, err)
		var all []*ipc.Future[[]byte]
		require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error {
			for i := range 300 {
				f, err := rawEcho.Go(t.Context(), c, numbered(uint64(i), 100))
				require.NoError(t, err)
				all = append(all, f)
			}
			return nil
		}))
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGTERM))
		for i, f := range all {
			b, err := f.Wait(context.Background())
			if err != nil { // it came too late, and was refused or not read
				require.Equal(t, ipc.CodeUnavailable, ipc.CodeOf(err))
				continue
			}
			require.Equal(t, uint64(i), binary.LittleEndian.Uint64(b))
		}
	})
}

// A future that nobody waits for neither keeps Close waiting nor the link from ending,
// once it is over.
func TestForgottenFutures(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t, worker.WithGrace(time.Minute))
		answered, err := add.Go(t.Context(), w, pair{1, 2})
		require.NoError(t, err)
		slow, err := sleep.Go(t.Context(), w, 20*time.Millisecond)
		require.NoError(t, err)
		begin := time.Now()
		require.NoError(t, w.Close())
		require.Less(t, time.Since(begin), 30*time.Second)
		sum, err := answered.Wait(context.Background())
		require.NoError(t, err)
		require.Equal(t, 3, sum)
		n, err := slow.Wait(context.Background())
		require.NoError(t, err, "it was pending, so Close has waited for it")
		require.Equal(t, 1, n)
	})
}
