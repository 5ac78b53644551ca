package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// shortBuffer is the size of buffers whose regions a process has addresses, or room in a file, for or not.
const shortBuffer = 64 << 20

var (
	// shortFresh returns a buffer in a region of its own.
	shortFresh = ipc.NewMethod[int, ipc.Buffer]("short.fresh")
	// shortFrozen returns a frozen one.
	shortFrozen = ipc.NewMethod[int, ipc.Buffer]("short.frozen")
	// shortLook returns the size of a buffer.
	shortLook = ipc.NewMethod[ipc.Buffer, int]("short.look")
	// shortItems sends fresh buffers.
	shortItems = ipc.NewServerStream[int, ipc.Buffer]("short.items")
	// shortLimit limits a worker, by addresses to so many bytes more than it uses. If the limit is negative it
	// takes that back.
	shortLimit = ipc.NewMethod[shortLimits, int]("short.limit")
)

type shortLimits struct {
	Resource int
	Limit    int64
}

func init() {
	shortHosts["buffers"] = buffersUnderShortage
	entries["fresh"] = func() error {
		s := worker.NewServer()
		fresh := func(ctx context.Context, n int) (ipc.Buffer, error) {
			own := ipc.NewArena(ipc.ArenaOptions{})
			defer own.Close() // gives the memory back when the buffer is released
			return own.Alloc(ctx, n)
		}
		frozen := func(ctx context.Context, n int) (ipc.Buffer, error) {
			b, err := fresh(ctx, n)
			if err != nil {
				return b, err
			}
			defer b.Release()
			return b.Freeze()
		}
		var before unix.Rlimit
		worker.Handle(s, shortFresh, fresh)
		worker.Handle(s, shortFrozen, frozen)
		worker.Handle(s, add, func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
		worker.Handle(s, shortLook, func(_ context.Context, b ipc.Buffer) (int, error) {
			return b.Len() + int(b.Bytes()[b.Len()-1]), nil
		})
		worker.HandleServerStream(s, shortItems, func(ctx context.Context, n int, out *ipc.Sender[ipc.Buffer]) error {
			for range 3 {
				b, err := fresh(ctx, n)
				if err != nil {
					return err
				}
				err = out.Send(ctx, b)
				b.Release()
				if err != nil {
					return err
				}
			}
			return nil
		})
		worker.Handle(s, shortLimit, func(_ context.Context, l shortLimits) (int, error) {
			if l.Limit < 0 {
				return 0, unix.Setrlimit(l.Resource, &before)
			}
			if err := unix.Getrlimit(l.Resource, &before); err != nil {
				return 0, err
			}
			limit := uint64(l.Limit)
			if l.Resource == unix.RLIMIT_AS {
				reserveForGo()
				limit += leaktest.AddressSpace()
			}
			return 0, unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: limit, Max: before.Max})
		})
		return s.Serve(context.Background())
	}
}

// reserveForGo makes the threads and the heap that Go may come to need while the process has no addresses for more: it
// would end the process.
func reserveForGo() {
	const threads = 32
	var ready, done sync.WaitGroup
	ready.Add(threads)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread() // so that each has a thread, which Go keeps
			defer runtime.UnlockOSThread()
			ready.Done()
			ready.Wait()
		})
	}
	done.Wait()
	runtime.KeepAlive(make([]byte, 96<<20)) // more than an arena of Go's heap
	runtime.GC()
}

// shortWays are what a host does with buffers, of a worker that has enough of all. Each makes memory, or maps some.
var shortWays = []struct {
	name string
	do   func(ctx context.Context, w client, a *ipc.Arena) error
}{
	{"receive", func(ctx context.Context, w client, _ *ipc.Arena) error {
		return lookAt(shortFresh.Call(ctx, w, shortBuffer))
	}},
	{"receive a frozen one", func(ctx context.Context, w client, _ *ipc.Arena) error {
		return lookAt(shortFrozen.Call(ctx, w, shortBuffer))
	}},
	{"receive items", func(ctx context.Context, w client, _ *ipc.Arena) error {
		for b, err := range shortItems.Stream(ctx, w, shortBuffer) {
			if err := lookAt(b, err); err != nil {
				return err
			}
		}
		return nil
	}},
	{"make", func(ctx context.Context, _ client, a *ipc.Arena) error {
		defer a.Trim()
		return lookAt(a.Alloc(ctx, shortBuffer))
	}},
	{"freeze", func(ctx context.Context, _ client, a *ipc.Arena) error {
		defer a.Trim()
		b, err := a.Alloc(ctx, shortBuffer/2)
		if err != nil {
			return err
		}
		defer b.Release()
		return lookAt(b.Freeze())
	}},
	{"send", func(ctx context.Context, w client, a *ipc.Arena) error {
		defer a.Trim()
		b, err := a.Alloc(ctx, shortBuffer)
		if err != nil {
			return err
		}
		defer b.Release()
		_, err = shortLook.Call(ctx, w, b)
		return err
	}},
}

// lookAt reads a buffer, and releases it.
func lookAt(b ipc.Buffer, err error) error {
	if err != nil {
		return err
	}
	defer b.Release()
	if n := b.Len(); n == 0 || b.Bytes()[n-1] != 0 {
		return fmt.Errorf("a buffer of %d bytes is not what was sent", n)
	}
	return nil
}

// isShort is nil if err is that this side, or the other one, is short of something.
func isShort(err error) error {
	if err == nil || errors.Is(err, ipc.ErrExhausted) || ipc.CodeOf(err) == ipc.CodeResourceExhausted {
		return nil
	}
	return fmt.Errorf("not a shortage: %w", err)
}

// A host that is short of descriptors, addresses or room for buffers gets an error that says so, from what has
// needed them. The link lives, nothing is left, and the same works when there is enough.
func TestHostIsShortOfBuffers(t *testing.T) {
	for _, resource := range []string{"files", "address space", "file size"} {
		t.Run(resource, func(t *testing.T) {
			if resource == "address space" && raceDetector() {
				t.Skip("the race detector maps memory as it likes")
			}
			runShortHost(t, "buffers", resource)
		})
	}
}

// bufferShortage returns the limits of a sweep.
func bufferShortage(resource string) leaktest.Shortage {
	return leaktest.ShortageOf(resource, 5, 48<<20, 3*shortBuffer, 0, 32<<10, shortBuffer/2, shortBuffer)
}

func buffersUnderShortage(ctx context.Context, _ string, args ...string) error {
	made, refused := 0, 0
	short := bufferShortage(args[0])
	base := leaktest.NewBaseline()
	for step, limit := range short.Limits {
		for _, way := range shortWays {
			failed := func(what string, err error) error {
				return fmt.Errorf("step %d, %s, %s: %w", step, way.name, what, err)
			}
			arena := ipc.NewArena(ipc.ArenaOptions{})
			w, err := worker.Spawn(ctx, worker.Self("fresh"), shm.Driver{}, worker.WithArena(arena)) // its acks, too, are made under the limit
			if err != nil {
				return failed("start", err)
			}
			var result, fine error
			if err := leaktest.UnderLimit(short.Resource, limit(), func() {
				result = way.do(ctx, w, arena)
				_, fine = add.Call(ctx, w, pair{1, 2})
			}); err != nil {
				return failed("limit", err)
			}
			if result != nil {
				refused++
			} else {
				made++
			}
			if err := isShort(result); err != nil {
				return failed("under the limit", err)
			}
			if fine != nil {
				return failed("the link under the limit", fine)
			}
			if err := eventuallyEnough(ctx, func() error { return way.do(ctx, w, arena) }); err != nil {
				return failed("after the shortage", err)
			}
			if err := errors.Join(w.Close(), arena.Close()); err != nil {
				return failed("close", err)
			}
			if n := arena.Stats().Buffers; n != 0 {
				return failed("left", fmt.Errorf("%d buffers", n))
			}
			if n := w.Forgotten(); n != 0 {
				return failed("forgotten", fmt.Errorf("%d buffers", n))
			}
			if leaks := base.Leaks(); len(leaks) > 0 {
				return failed("left", fmt.Errorf("%v", leaks))
			}
		}
	}
	if made == 0 || refused == 0 {
		return fmt.Errorf("%d made, %d refused: the sweep has missed the border", made, refused)
	}
	return nil
}

// eventuallyEnough does what works again when the other side knows that there is enough: a region that could not be
// mapped is passed again.
func eventuallyEnough(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || isShort(err) != nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// A worker that is short of addresses, or of room for buffers, says so to each caller, and lives; the same works when
// there is enough again.
func TestWorkerIsShortOfBuffers(t *testing.T) {
	for _, resource := range []string{"address space", "file size"} {
		t.Run(resource, func(t *testing.T) {
			if resource == "address space" && raceDetector() {
				t.Skip("the race detector maps memory as it likes")
			}
			const own = shortBuffer + 16<<20 // what Go may map for itself: however many buffers fit, some is left
			limits := map[string]struct {
				resource int
				all      []int64
			}{
				"address space": {unix.RLIMIT_AS, []int64{own, own + shortBuffer/2, own + shortBuffer, own + 2*shortBuffer, own + 4*shortBuffer}},
				"file size":     {unix.RLIMIT_FSIZE, []int64{0, 32 << 10, 4 << 20, shortBuffer / 2, shortBuffer, 2 * shortBuffer}},
			}[resource]
			made, refused := 0, 0
			for _, limit := range limits.all {
				arena := newArena(t, ipc.ArenaOptions{})
				cmd := worker.Self("fresh")
				cmd.Env = fewThreads()
				w, err := spawners[0].spawn(t.Context(), cmd, worker.WithArena(arena))
				require.NoError(t, err)
				require.True(t, w.Capabilities().SharedMemory)
				ways := map[string]func() error{
					"look": func() error {
						b, err := arena.Alloc(t.Context(), shortBuffer)
						require.NoError(t, err)
						defer arena.Trim()
						defer b.Release()
						_, err = shortLook.Call(t.Context(), w, b)
						return err
					},
					"fresh":  func() error { return lookAt(shortFresh.Call(t.Context(), w, shortBuffer)) },
					"frozen": func() error { return lookAt(shortFrozen.Call(t.Context(), w, shortBuffer)) },
				}
				_, err = shortLimit.Call(t.Context(), w, shortLimits{limits.resource, limit})
				require.NoError(t, err)
				for name, do := range ways {
					err := do()
					if err != nil {
						refused++
					} else {
						made++
					}
					require.NoError(t, isShort(err), "%s with %d", name, limit)
					sum, err := add.Call(t.Context(), w, pair{1, 2})
					require.NoError(t, err)
					require.Equal(t, 3, sum)
				}
				_, err = shortLimit.Call(t.Context(), w, shortLimits{limits.resource, -1})
				require.NoError(t, err)
				for name, do := range ways {
					require.NoError(t, eventuallyEnough(t.Context(), do), name)
				}
				eventually(t, "what was sent is free", func() bool { return arena.Stats().Buffers == 0 })
				require.NoError(t, w.Close())
				require.Zero(t, w.Forgotten())
			}
			require.Positive(t, made)
			require.Positive(t, refused, "the sweep has missed the border")
		})
	}
}
