//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// place does in place what the first byte of its request says, with as many bytes as
// the next four say.
var (
	place     = ipc.NewMethod[[]byte, []byte]("test.place", ipc.WithCodec(ipc.Raw))
	wrong     = ipc.NewMethod[[]byte, []byte]("test.place_wrong", ipc.WithCodec(ipc.JSON))
	mallocs   = ipc.NewMethod[[1]uint64, [1]uint64]("test.mallocs", ipc.WithCodec(ipc.Fixed))
	callPlace = ipc.NewMethod[[]byte, []byte]("test.call_place", ipc.WithCodec(ipc.Raw)) // calls place on the host
	largeBack = ipc.NewMethod[int, int]("test.large_back")                               // calls rawEcho on the host
)

func placed(what byte, n int, rest ...byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{what}, uint32(n)), rest...)
}

// filled returns what place answers with: n bytes that depend on their index.
func filled(n int) []byte {
	b := make([]byte, n)
	fillIn(b)
	return b
}

func fillIn(b []byte) {
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8)*31
	}
}

// slowPlaces has what ends slow places: signals of their host.
var slowPlaces = make(chan os.Signal, 1)

func doPlace(_ context.Context, call worker.InPlace) error {
	request := call.Request()
	what, n := request[0], int(binary.LittleEndian.Uint32(request[1:]))
	switch what {
	case 'e':
		call.Reply(request)
		return nil
	case 's':
		before := crc32.ChecksumIEEE(request)
		<-slowPlaces
		if crc32.ChecksumIEEE(request) != before {
			return errors.New("the request has changed")
		}
		call.Reply(request)
		return nil
	}
	buf, err := call.Claim(n)
	if err != nil {
		return err
	}
	fillIn(buf)
	switch what {
	case 'l':
		call.Reply(buf[:n/2])
	case 't':
		call.Reply(buf[n/2:])
	case 'n':
		call.Reply(nil)
	case 'f':
		call.Reply(filled(n / 3))
	case 'F':
		call.Reply(filled(2 * n))
	case 'x':
		return ipc.NewError(ipc.CodeNotFound, "after the claim")
	case 'p':
		panic("after the claim")
	case 'g':
		runtime.Goexit()
	case '2':
		_, _ = call.Claim(1)
	}
	return nil
}

func servePlaces(s *worker.Server, happened func(what string)) {
	worker.HandleInPlace(s, place, func(ctx context.Context, call worker.InPlace) error {
		if call.Request()[0] == 's' {
			happened("slow place.begin")
		}
		return doPlace(ctx, call)
	})
	worker.HandleInPlace(s, wrong, func(context.Context, worker.InPlace) error { return nil })
	signal.Notify(slowPlaces, syscall.SIGUSR1)
	worker.Handle(s, mallocs, func(context.Context, [1]uint64) ([1]uint64, error) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return [1]uint64{m.Mallocs}, nil
	})
	worker.Handle(s, callPlace, func(ctx context.Context, b []byte) ([]byte, error) { return place.Call(ctx, worker.Host(ctx), b) })
	worker.Handle(s, largeBack, func(ctx context.Context, n int) (int, error) {
		b, err := rawEcho.Call(ctx, worker.Host(ctx), make([]byte, n))
		return len(b), err
	})
}

func TestInPlaceSizes(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		for _, n := range []int{0, 1, 7, 8, 9, 63, 64, 4095, 4096, 16 << 10, 64 << 10, 256<<10 - 24, 256 << 10, 1<<20 - 1, 1<<20 + 1, 5 << 20} {
			want := filled(n)
			got, err := place.Call(t.Context(), w, placed('e', n, want...))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got[5:]), "echo of %d bytes", n)
			for _, what := range "cltnfF" {
				got, err := place.Call(t.Context(), w, placed(byte(what), n))
				require.NoError(t, err)
				want := map[rune][]byte{'c': want, 'l': want[:n/2], 't': want[n/2:], 'n': nil, 'f': want[:n/3]}[what]
				if what == 'F' {
					want = filled(2 * n)
				}
				require.True(t, bytes.Equal(want, got), "%c of %d bytes", what, n)
			}
			require.NoError(t, place.Notify(t.Context(), w, placed('c', n)))
		}
	})
}

// Whatever happens after a claim, the next calls work: nobody keeps the link.
func TestInPlaceFails(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		for range 30 { // by goroutines, then by the background reader
			for what, code := range map[byte]ipc.Code{'x': ipc.CodeNotFound, 'p': ipc.CodeInternal, 'g': ipc.CodeInternal, '2': ipc.CodeInternal} {
				_, err := place.Call(t.Context(), w, placed(what, 100))
				require.Equal(t, code, ipc.CodeOf(err), "%c: %v", what, err)
				require.NoError(t, place.Notify(t.Context(), w, placed(what, 100)))
			}
			got, err := place.Call(t.Context(), w, placed('c', 100))
			require.NoError(t, err)
			require.Equal(t, filled(100), got)
		}
		_, err := place.Call(t.Context(), w, placed('2', 10<<20))
		require.ErrorContains(t, err, "Claim", "also where it is not the link's memory")
		_, err = wrong.Call(t.Context(), w, nil)
		require.Equal(t, ipc.CodeInternal, ipc.CodeOf(err))
		require.ErrorContains(t, err, "needs codec raw, not json")
	})
}

// A part of the claim that is not its beginning is nobody else's, whoever sends then.
func TestInPlaceRepliesOfManySenders(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					n := 1000 + 10*g + i
					what := "tcfFle"[(g+i)%6]
					got, err := place.Call(context.Background(), w, placed(what, n))
					if !assert.NoError(t, err) {
						return
					}
					want := map[byte][]byte{'t': filled(n)[n/2:], 'c': filled(n), 'f': filled(n / 3), 'F': filled(2 * n), 'l': filled(n / 2), 'e': placed('e', n)}[what]
					if !bytes.Equal(want, got) {
						t.Errorf("%c of %d bytes is damaged", what, n)
					}
				}
			})
		}
		wg.Wait()
	})
}

// A handler in place that turns slow keeps its request intact, stalls its own link at
// most, and that goes on afterwards.
func TestSlowInPlace(t *testing.T) {
	const floods = 320
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w, other := s.start(t), s.start(t)
		for _, warm := range []int{0, 100} { // in a goroutine of its own, then by the background reader
			for range warm {
				_, err := place.Call(t.Context(), w, placed('e', 0))
				require.NoError(t, err)
			}
			slow := make(chan error, 1)
			request := placed('s', 0, filled(3000)...)
			go func() {
				got, err := place.Call(context.Background(), w, request)
				if err == nil && !bytes.Equal(got, request) {
					err = errors.New("another answer")
				}
				slow <- err
			}()
			eventually(t, "the slow one has begun", func() bool { return count(t, w, "slow place.begin") == 1+warm/100 })
			var flood sync.WaitGroup
			var answered atomic.Int32
			for range 8 {
				flood.Go(func() {
					for range floods / 8 {
						b, err := rawEcho.Call(context.Background(), w, filled(12<<10))
						assert.NoError(t, err)
						assert.Len(t, b, 12<<10)
						answered.Add(1)
					}
				})
			}
			for range 50 {
				_, err := rawEcho.Call(t.Context(), other, filled(12<<10))
				require.NoError(t, err)
			}
			if !w.Capabilities().SharedMemory {
				flood.Wait()
			}
			require.Empty(t, slow)
			if w.Capabilities().SharedMemory { // for the flood is larger than the ring
				require.Less(t, answered.Load(), int32(floods))
			}
			require.NoError(t, syscall.Kill(w.PID(), syscall.SIGUSR1)) // lets it end
			require.NoError(t, <-slow)
			flood.Wait()
			require.EqualValues(t, floods, answered.Load())
		}
	})
}

// What a host's own handler in place does to the link.
func TestInPlaceOnTheHost(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		var log lockedLog
		w := s.start(t, worker.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		entered, release := make(chan struct{}), make(chan struct{})
		var again atomic.Bool
		worker.HandleInPlace(w, place, func(ctx context.Context, call worker.InPlace) error {
			if call.Request()[0] != 's' {
				return doPlace(ctx, call)
			}
			before := bytes.Clone(call.Request())
			entered <- struct{}{}
			<-release
			if again.Load() {
				_, err := call.Claim(1 << 10)
				return err
			}
			if !bytes.Equal(before, call.Request()) {
				return errors.New("the request has changed")
			}
			return nil
		}, worker.WithInline())
		for range 50 {
			got, err := callPlace.Call(t.Context(), w, placed('c', 500))
			require.NoError(t, err)
			require.Equal(t, filled(500), got)
		}
		slow, err := callPlace.Go(t.Context(), w, placed('s', 0, filled(100)...))
		require.NoError(t, err)
		<-entered
		for range 100 { // is not held up
			_, err := add.Call(t.Context(), w, pair{1, 2})
			require.NoError(t, err)
		}
		eventually(t, "the logger has it", func() bool { return strings.Contains(log.String(), "keeps memory of its link") })
		require.Contains(t, log.String(), place.Info().Name)
		release <- struct{}{}
		_, err = slow.Wait(context.Background())
		require.NoError(t, err)

		// The worker is stopped and its ring full when the handler claims: that ends
		// with the context of the call.
		again.Store(true)
		for begun, patience := false, 3*time.Second; !begun; patience *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			slow, err = callPlace.Go(ctx, w, placed('s', 0))
			if err == nil {
				select {
				case <-entered:
					begun = true
				case <-ctx.Done(): // it comes too late
					_, err = slow.Wait(context.Background())
				}
			}
			if !begun {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		}
		stop(t, w.PID())
		for full := false; !full; {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			full = rawEcho.Notify(ctx, w, filled(1000)) != nil
			cancel()
		}
		release <- struct{}{}
		_, err = slow.Wait(context.Background())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGCONT))
		_, err = add.Call(t.Context(), w, pair{1, 2})
		require.NoError(t, err, "the link is nobody's")

		// It is killed while the handler keeps its memory.
		again.Store(false)
		slow, err = callPlace.Go(t.Context(), w, placed('s', 0, filled(100)...))
		require.NoError(t, err)
		<-entered
		require.NoError(t, syscall.Kill(w.PID(), syscall.SIGKILL))
		_, err = slow.Wait(context.Background())
		require.ErrorIs(t, err, ipc.ErrPeerGone)
		closed := make(chan struct{})
		go func() { w.Close(); close(closed) }()
		release <- struct{}{}
		<-closed
	})
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A handler that the background reader runs may call back for more than the ring takes.
func TestLargeCallBackOfQuickHandler(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		t.Parallel()
		w := s.start(t)
		worker.Handle(w, rawEcho, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		for range 3 {
			for range 200 { // so that the background reader runs it
				_, err := sleep.Call(t.Context(), w, 0)
				require.NoError(t, err)
				n, err := largeBack.Call(t.Context(), w, 10)
				require.NoError(t, err)
				require.Equal(t, 10, n)
			}
			n, err := largeBack.Call(t.Context(), w, 3<<20)
			require.NoError(t, err)
			require.Equal(t, 3<<20, n)
		}
	})
}

// CallInto uses the memory of its caller again.
func TestCallInto(t *testing.T) {
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		ctx := t.Context()
		request := placed('e', 0, filled(100)...)
		memory := make([]byte, 0, 200)
		out := memory
		require.NoError(t, place.CallInto(ctx, w, request, &out))
		require.Equal(t, request, out)
		require.Equal(t, &memory[:1][0], &out[0])
		require.NoError(t, place.CallInto(ctx, w, placed('e', 0), &out))
		require.Len(t, out, 5)
		var none []byte
		require.NoError(t, place.CallInto(ctx, w, request, &none))
		require.Equal(t, request, none)
		for range 3 { // large ones change hands
			large := placed('e', 0, filled(3<<20)...)
			require.NoError(t, place.CallInto(ctx, w, large, &none))
			require.True(t, bytes.Equal(large, none))
		}
		require.NoError(t, place.CallInto(ctx, w, request, &none))
		require.Equal(t, request, none)
		require.Error(t, place.CallInto(ctx, w, placed('x', 10), &none))

		var sum int
		require.NoError(t, add.CallInto(ctx, w, pair{1, 2}, &sum))
		require.Equal(t, 3, sum)
		all := pids{Data: map[string]int{"mine": 1}}
		require.NoError(t, pid.CallInto(ctx, w, 0, &all))
		require.Equal(t, w.PID(), all.PID)
		require.Error(t, unknown.CallInto(ctx, w, 1, &sum))

		if raceEnabled {
			return // which allocates by itself
		}
		var fail error
		inPlace := func() { fail = errors.Join(fail, place.CallInto(ctx, w, request, &out)) }
		var q quote
		inFixed := func() { fail = errors.Join(fail, fixed.CallInto(ctx, w, quote{1, 2}, &q)) }
		for range 200 {
			inPlace()
			inFixed()
		}
		require.Zero(t, testing.AllocsPerRun(500, inPlace), "in place")
		require.Zero(t, testing.AllocsPerRun(500, inFixed), "fixed")
		require.NoError(t, fail)
		require.Equal(t, quote{1, 2}, q)
	})
}

// Nor does a worker allocate for calls in place.
func TestInPlaceAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself")
	}
	const calls = 4000
	eachDriver(t, func(t *testing.T, s spawner) {
		w := s.start(t)
		var out []byte
		made := func() uint64 {
			m, err := mallocs.Call(t.Context(), w, [1]uint64{})
			require.NoError(t, err)
			return m[0]
		}
		// Now and then the machine makes a handler slow, which takes a goroutine.
		eventually(t, "no more than a few", func() bool {
			before := made()
			for range calls {
				require.NoError(t, place.CallInto(t.Context(), w, placed('c', 100), &out))
			}
			return made()-before < calls/50
		})
	})
}
