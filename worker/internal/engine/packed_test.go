package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Whatever a handler does with one of the notifications that share a frame, it gets all of
// them, in their order unless it runs beside itself.
func TestPackedNotifications(t *testing.T) {
	ways := map[string]func(*Handler){
		"as it comes": func(*Handler) {}, "inline": (*Handler).Inline, "one at a time": oneAtATime, "four at a time": func(h *Handler) { h.Concurrent(4) },
	}
	for name, way := range ways {
		for _, inPlace := range []bool{false, true} {
			t.Run(map[bool]string{false: name, true: name + " in place"}[inPlace], func(t *testing.T) {
				t.Parallel()
				const count = 3000
				var mu sync.Mutex
				var got []int
				reg := new(Registry)
				m := ipc.NewMethod[[]byte, []byte]("m", ipc.WithCodec(ipc.Raw))
				handle(reg, echo, returnIt)
				act := func(ctx context.Context, b []byte) error {
					i := int(binary.LittleEndian.Uint32(b))
					for _, c := range b[4:] {
						if c != byte(i) {
							return errors.New("not what was sent")
						}
					}
					if ctx.Err() != nil {
						return ctx.Err()
					}
					mu.Lock()
					got = append(got, i)
					mu.Unlock()
					switch i % 200 {
					case 20:
						runtime.Goexit()
					case 40:
						panic("a handler")
					case 60:
						time.Sleep(3 * tick) // so the link is read by others
					case 80:
						_, err := echo.Call(ctx, CallerOf(ctx), nil)
						return err
					case 100:
						return errors.New("failed")
					}
					return nil
				}
				if inPlace {
					handleInPlace(reg, m, func(ctx context.Context, r *Request) error { return act(ctx, r.Payload()) }, way)
				} else {
					handle(reg, m, func(ctx context.Context, b []byte) ([]byte, error) { return nil, act(ctx, b) }, way)
				}
				host, _ := newSessionPair(t, reg)
				for i := 0; i < count; {
					require.NoError(t, host.Batch(t.Context(), func(c ipc.Caller) error {
						for range 1 + rand.IntN(200) {
							if i == count {
								break
							}
							b := binary.LittleEndian.AppendUint32(nil, uint32(i))
							b = append(b, slices.Repeat([]byte{byte(i)}, rand.IntN(100))...)
							if err := m.Notify(t.Context(), c, b); err != nil {
								return err
							}
							i++
						}
						return nil
					}))
					if i%5 == 0 {
						_, err := echo.Call(t.Context(), host, nil)
						require.NoError(t, err)
					}
				}
				require.Eventually(t, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(got) >= count
				}, time.Minute, time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				if name == "four at a time" {
					slices.Sort(got)
				}
				for i, g := range got {
					require.Equal(t, i, g)
				}
				require.Len(t, got, count)
			})
		}
	}
}

// Small notifications that follow each other share a frame, if they are for one method and
// have one timeout, up to what a frame holds.
func TestWhatSharesAFrame(t *testing.T) {
	other := ipc.NewMethod[[]byte, []byte]("other", ipc.WithCodec(ipc.Raw))
	ctx := t.Context()
	derived, cancel := context.WithCancel(ctx)
	defer cancel()
	small, large := make([]byte, 10), make([]byte, 3000)
	many := func(n int, f func(ipc.Caller) error) func(ipc.Caller) error {
		return func(c ipc.Caller) (err error) {
			for range n {
				err = errors.Join(err, f(c))
			}
			return err
		}
	}
	tell := func(b []byte) func(ipc.Caller) error {
		return func(c ipc.Caller) error { return told.Notify(ctx, c, b) }
	}
	for name, c := range map[string]struct {
		send func(ipc.Caller) error
		want []uint64 // of each frame
	}{
		"one":     {tell(small), []uint64{0}},
		"two":     {many(2, tell(small)), []uint64{2}},
		"many":    {many(2*drivers.MaxPacked+1, tell(nil)), []uint64{drivers.MaxPacked, drivers.MaxPacked, 0}},
		"large":   {many(3, tell(large)), []uint64{0, 0, 0}},
		"largest": {many(2, tell(make([]byte, 100<<10))), []uint64{0, 0}},
		"another method": {many(2, func(c ipc.Caller) error {
			return errors.Join(told.Notify(ctx, c, small), told.Notify(ctx, c, small), other.Notify(ctx, c, small))
		}), []uint64{2, 0, 2, 0}},
		"another context": {func(c ipc.Caller) error {
			return errors.Join(told.Notify(ctx, c, small), told.Notify(derived, c, small), told.Notify(derived, c, small))
		}, []uint64{3}},
		"another timeout": {func(c ipc.Caller) error {
			return errors.Join(told.Notify(ctx, c, small), told.Notify(ctx, c, small, ipc.WithTimeout(time.Hour)), told.Notify(ctx, c, small))
		}, []uint64{0, 0, 0}},
		"a call between": {func(c ipc.Caller) error {
			err := told.Notify(ctx, c, small)
			f, err2 := echo.Go(ctx, c, small)
			if err2 == nil {
				f.Abandon()
			}
			return errors.Join(err, err2, told.Notify(ctx, c, small), told.Notify(ctx, c, small))
		}, []uint64{0, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := newTestSession(t, new(Registry))
			require.NoError(t, s.Batch(ctx, c.send))
			var got []uint64
			for len(l.sent) > 0 {
				if f := <-l.sent; f.Kind == drivers.KindNotify {
					got = append(got, f.Tx)
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// The context of each notification of a frame ends when its handler has ended, however the
// handlers before it have ended.
func TestContextsOfPackedNotifications(t *testing.T) {
	for name, way := range map[string]func(*Handler){"in order": func(*Handler) {}, "inline": (*Handler).Inline, "one at a time": oneAtATime} {
		t.Run(name, func(t *testing.T) {
			reg := new(Registry)
			kept := make(chan context.Context, 10)
			handle(reg, told, func(ctx context.Context, b []byte) ([]byte, error) {
				ctx.Done() // it is a real one now
				kept <- ctx
				switch b[0] {
				case 1:
					runtime.Goexit()
				case 3:
					panic("a handler")
				}
				return nil, nil
			}, way)
			host, _ := newSessionPair(t, reg)
			require.NoError(t, host.Batch(t.Context(), func(c ipc.Caller) error {
				for i := range byte(6) {
					if err := told.Notify(t.Context(), c, []byte{i}); err != nil {
						return err
					}
				}
				return nil
			}))
			for range 6 {
				<-(<-kept).Done()
			}
		})
	}
}

// incomparable is a context that == panics for.
type incomparable struct {
	context.Context
	_ []string
}

func TestBatchWithAnyContext(t *testing.T) {
	s, l := newTestSession(t, new(Registry))
	require.NoError(t, s.Batch(t.Context(), func(c ipc.Caller) error {
		for range 3 {
			if err := told.Notify(incomparable{Context: t.Context()}, c, nil); err != nil {
				return err
			}
		}
		return nil
	}))
	require.EqualValues(t, 3, (<-l.sent).Tx)
}

// sluggishLink is a fake link that takes a while for each batch.
type sluggishLink struct {
	*fakeLink
	sends chan struct{}
}

func (l sluggishLink) SendBatch(_ context.Context, frames []drivers.Frame) (int, error) {
	time.Sleep(time.Millisecond)
	l.sends <- struct{}{}
	return len(frames), nil
}

// A goroutine that wants the batch gets it though another one sends without a pause.
func TestBatchIsShared(t *testing.T) {
	l := sluggishLink{newFakeLink(), make(chan struct{}, 10_000)}
	s := newSessionOn(t, new(Registry), l)
	stop := make(chan struct{})
	require.NoError(t, s.Batch(t.Context(), func(c ipc.Caller) error {
		var busy sync.WaitGroup
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = told.Notify(t.Context(), c, make([]byte, 2000))
					s.notificationWindow.returned.Store(s.notificationWindow.sent.Load())
				}
			}
		})
		for range 30 {
			<-l.sends
			before := len(l.sends)
			f, err := echo.Go(t.Context(), c, nil)
			require.NoError(t, err)
			require.Less(t, len(l.sends)-before, 1000, "others have sent so often meanwhile")
			f.Abandon()
		}
		close(stop)
		busy.Wait()
		return nil
	}))
}

// A goroutine that waits for a call is let go when that call is over, though another one
// sends, and is blocked.
func TestWaitEndsWithItsCall(t *testing.T) {
	l := newBlockingLink()
	s := newSessionOn(t, new(Registry), l)
	require.ErrorAs(t, s.Batch(t.Context(), func(c ipc.Caller) error {
		first, err := echo.Go(t.Context(), c, nil)
		require.NoError(t, err)
		second, err := echo.Go(t.Context(), c, nil, ipc.WithTimeout(20*time.Millisecond))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		sending := make(chan struct{})
		go func() {
			defer close(sending)
			_, _ = first.Wait(ctx) // blocks in the link
		}()
		<-l.asked
		_, err = second.Wait(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		<-sending
		l.unblock()
		return nil
	}), new(*ipc.TimeoutError))
}
