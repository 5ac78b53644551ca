//go:build linux

package socket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// interesting sizes: around the edges of every buffer on the way.
var sizes = []int{
	0, 1, 7, 8, 63, 64, 4095, 4096, 4097, 8191, 8192, 8193, 64 << 10,
	socket.MaxBuffer - 40, socket.MaxBuffer - 16, socket.MaxBuffer - 15, socket.MaxBuffer, socket.MaxBuffer + 1,
	1 << 20, 3<<20 + 1, drivers.DefaultMaxMessage - 64,
}

func random(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = src.Read(b)
	return b
}

func TestEchoOfAllSizes(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	for i, n := range sizes {
		p := random(n)
		sum := crc32.ChecksumIEEE(p)
		f := drivers.Frame{Kind: drivers.KindRequest, Tx: uint64(i), Method: methodEcho, Payload: p}
		if i%2 == 0 {
			f.Remaining = time.Duration(i+1) * time.Hour
		}
		sent := make(chan error, 1)
		go func() { sent <- h.link().Send(h.ctx, &f) }()
		g := h.recv()
		require.NoError(t, <-sent)
		require.Equal(t, uint64(i), g.Tx)
		require.Equal(t, f.Method, g.Method)
		require.Equal(t, f.Remaining, g.Remaining)
		require.Len(t, g.Payload, n)
		require.Equal(t, sum, crc32.ChecksumIEEE(g.Payload))
		require.Equal(t, sum, crc32.ChecksumIEEE(p), "Send does not change what it sends")
		size := 8 + len(f.AppendHeader(nil)) + n + 1 // large ones have an end byte
		require.Equal(t, size > socket.MaxBuffer, g.Owned, "%d bytes in all", size)
	}
}

func TestFramesInARow(t *testing.T) {
	a, b := socket.Pair(t, 1<<24)
	ctx := testContext(t)
	const count = 3000
	rnd := rand.New(rand.NewPCG(1, 2))
	want := make([]int, count)
	for i := range want {
		want[i] = rnd.IntN(300)
		switch {
		case i%50 == 0:
			want[i] = rnd.IntN(200 << 10)
		case i%7 == 0:
			want[i] = rnd.IntN(20 << 10)
		}
	}
	all := random(256 << 10)
	errs := make(chan error, 1)
	go func() {
		for i, n := range want {
			if err := a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: uint64(i), Payload: all[i : i+n]}); err != nil {
				errs <- err
				return
			}
		}
		errs <- a.Close()
	}()
	for i, n := range want {
		f, err := next(ctx, b)
		require.NoError(t, err)
		require.Equal(t, uint64(i), f.Tx)
		require.True(t, bytes.Equal(all[i:i+n], f.Payload), "frame %d of %d bytes", i, n)
	}
	_, err := next(ctx, b)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
	require.NoError(t, <-errs)
}

// TestBytewise feeds a link one byte at a time.
func TestBytewise(t *testing.T) {
	a, b := socket.ConnPair(t)
	l := socket.LinkOf(t, a, 1<<20, false)
	frame := append(prefix(8+3, byte(drivers.KindNotify)), 9, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c')
	for range 3 {
		for i := range frame {
			_, err := b.Write(frame[i : i+1])
			require.NoError(t, err)
			f, ok, err := socket.Look(l)
			require.NoError(t, err)
			require.Equal(t, i == len(frame)-1, ok)
			require.False(t, l.Ready())
			if ok {
				require.Equal(t, uint64(9), f.Tx)
				require.Equal(t, "abc", string(f.Payload))
			}
		}
	}
	// Two and a half at once: the second is ready though the socket is empty.
	_, err := b.Write(append(append(append([]byte(nil), frame...), frame...), frame[:5]...))
	require.NoError(t, err)
	for i := range 2 {
		require.True(t, l.Ready(), i)
		_, ok, err := socket.Look(l)
		require.NoError(t, err)
		require.True(t, ok)
	}
	_, ok, err := socket.Look(l)
	require.NoError(t, err)
	require.False(t, ok)
	require.False(t, l.Ready(), "a part of a frame is nothing to wake for")
}

func TestSizeLimit(t *testing.T) {
	cmd := command(t, "hello", "small") // accepts 8 KiB, and says nothing
	ch, err := socket.Driver{}.Spawn(testContext(t), cmd)
	require.NoError(t, err)
	ch.Links(func(l drivers.Link) {
		require.Equal(t, 8<<10, l.Peer().MaxMessage)
		err := l.Send(testContext(t), &drivers.Frame{Kind: drivers.KindRequest, Method: 1, Payload: make([]byte, 8<<10-15)})
		var size *ipc.SizeError
		require.ErrorAs(t, err, &size)
		require.Equal(t, ipc.SizeError{Size: 8<<10 + 1, Limit: 8 << 10}, *size)
		require.NoError(t, l.Send(testContext(t), &drivers.Frame{Kind: drivers.KindRequest, Method: 1, Payload: make([]byte, 8<<10-16)}))
		require.NoError(t, l.Close())
	})
	require.NoError(t, ch.Process().Signal(syscall.SIGKILL))
	<-ch.Process().Done()
	require.NoError(t, ch.Close())
}

func TestConcurrentSends(t *testing.T) {
	const senders, each = 64, 200
	h := spawn(t, socket.Driver{}, "echo", "")
	var wg sync.WaitGroup
	link := h.link()
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				p := random((s*each + i) % 5000)
				f := drivers.Frame{Kind: drivers.KindRequest, Method: methodEcho, Tx: uint64(s)<<32 | uint64(i),
					Payload: binary.LittleEndian.AppendUint32(p, crc32.ChecksumIEEE(p))}
				if err := link.Send(h.ctx, &f); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var seen [senders]uint32
	for range senders * each {
		f := h.recv()
		p := f.Payload[:len(f.Payload)-4]
		require.Equal(t, binary.LittleEndian.Uint32(f.Payload[len(p):]), crc32.ChecksumIEEE(p))
		s := f.Tx >> 32
		require.Equal(t, seen[s], uint32(f.Tx), "frames of one sender stay in order")
		seen[s]++
	}
	wg.Wait()
}

func TestStoppedWorker(t *testing.T) {
	h := spawn(t, socket.Driver{}, "echo", "")
	h.stop()
	p := random(1 << 20)
	sum := crc32.ChecksumIEEE(p)
	full, cancel := context.WithCancel(h.ctx)
	sent, cut := 0, make(chan error, 1)
	go func() {
		for {
			if err := h.link().Send(full, &drivers.Frame{Kind: drivers.KindNotify, Tx: uint64(sent), Method: methodEcho, Payload: p}); err != nil {
				cut <- err
				return
			}
			sent++
		}
	}()
	eventually(t, "the socket is full", func() bool { return goroutineIn("(*link).writeSlowly") })
	// One that waits for the lock leaves, too, and its frame is never seen.
	behind, leave := context.WithCancel(h.ctx)
	left := make(chan error, 1)
	go func() {
		left <- h.link().Send(behind, &drivers.Frame{Kind: drivers.KindNotify, Tx: 1 << 40, Method: methodEcho})
	}()
	eventually(t, "a second sender waits", func() bool { return goroutineIn("sendlock.(*Lock).Lock") })
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	cancel()
	require.ErrorIs(t, <-cut, context.Canceled)
	// What is missing of the frame that was cut waits for room as well.
	again, cancel := context.WithCancel(h.ctx)
	go func() {
		cut <- h.link().Send(again, &drivers.Frame{Kind: drivers.KindNotify, Tx: 1 << 41, Method: methodEcho})
	}()
	eventually(t, "the socket is still full", func() bool { return goroutineIn("(*link).writeSlowly") })
	cancel()
	require.ErrorIs(t, <-cut, context.Canceled)

	require.NoError(t, h.Process().Signal(syscall.SIGCONT))
	last := make(chan error, 1)
	go func() {
		last <- h.link().Send(h.ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: 1 << 42, Method: methodEcho, Payload: []byte("end")})
	}()
	for i := 0; ; i++ {
		f := h.recv()
		if f.Tx == 1<<42 {
			require.Equal(t, "end", string(f.Payload))
			require.Equal(t, sent, i, "the frame that was cut never arrives")
			break
		}
		require.Equal(t, uint64(i), f.Tx)
		require.Equal(t, sum, crc32.ChecksumIEEE(f.Payload))
	}
	require.NoError(t, <-last)
	h.works()
}

func TestShutdownKeepsWhatHasArrived(t *testing.T) {
	for _, which := range []string{"ours", "theirs", "close theirs"} {
		a, b := socket.Pair(t, 1<<20)
		ctx := testContext(t)
		for i := range 10 {
			require.NoError(t, b.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: uint64(i), Payload: make([]byte, 5000)}))
		}
		require.NoError(t, a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify})) // stays unread, so that Close resets
		switch which {
		case "ours":
			a.Shutdown()
			a.Shutdown()
			require.ErrorIs(t, a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrDisconnected)
		case "theirs":
			b.Shutdown()
		default:
			require.NoError(t, b.Close())
			require.NoError(t, b.Close())
			_, _, err := socket.Look(b)
			require.ErrorIs(t, err, ipc.ErrDisconnected)
			require.ErrorIs(t, b.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrDisconnected)
			b.Sleep(func() bool { return false })
			require.True(t, b.Ready())
			b.Wake()
		}
		for i := range 10 {
			f, err := next(ctx, a)
			require.NoError(t, err, which)
			require.Equal(t, uint64(i), f.Tx)
		}
		_, err := next(ctx, a)
		if which == "ours" {
			require.ErrorIs(t, err, ipc.ErrDisconnected)
		} else {
			require.ErrorIs(t, err, ipc.ErrPeerGone)
			require.ErrorIs(t, a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrPeerGone)
		}
		a.Sleep(func() bool { return false }) // returns: the link has ended
	}
}

func TestEndUnblocks(t *testing.T) {
	ends := map[string]struct {
		end  func(a, b drivers.Link)
		want error
	}{
		"Shutdown":      {func(a, b drivers.Link) { a.Shutdown() }, ipc.ErrDisconnected},
		"Close":         {func(a, b drivers.Link) { _ = a.Close() }, ipc.ErrDisconnected},
		"peer Shutdown": {func(a, b drivers.Link) { b.Shutdown() }, ipc.ErrPeerGone},
		"peer Close":    {func(a, b drivers.Link) { _ = b.Close() }, ipc.ErrPeerGone},
	}
	for name, c := range ends {
		t.Run(name, func(t *testing.T) {
			a, b := socket.Pair(t, 64<<20)
			ctx := testContext(t)
			var wg sync.WaitGroup
			errs := make(chan error, 4)
			for range 4 { // one in the system, three at the lock
				wg.Go(func() { errs <- a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, 32<<20)}) })
			}
			slept := make(chan struct{})
			a.Arm()
			go func() { a.Sleep(func() bool { return false }); close(slept) }()
			eventually(t, "all wait", func() bool {
				return goroutineIn("(*link).writeSlowly") && goroutineIn("sendlock.(*Lock).Lock") && goroutineIn("(*link).Sleep")
			})
			c.end(a, b)
			wg.Wait()
			for range 4 {
				require.ErrorIs(t, <-errs, c.want)
			}
			<-slept
		})
	}
}

func TestCloseAtAnyMoment(t *testing.T) {
	for i := range 200 {
		a, b := socket.Pair(t, 1<<20)
		ctx := testContext(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			for a.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, i*100)}) == nil {
			}
		})
		wg.Go(func() {
			for {
				if _, err := next(ctx, b); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for !a.Ready() {
				a.Wake()
				runtime.Gosched()
			}
		})
		wg.Go(func() { a.Sleep(func() bool { return false }) })
		for range i {
			runtime.Gosched()
		}
		require.NoError(t, a.Close())
		wg.Wait()
		require.NoError(t, b.Close())
	}
}

func TestSleepAndWake(t *testing.T) {
	a, b := socket.Pair(t, 1<<20)
	ctx := testContext(t)
	a.Sleep(func() bool { return true })
	for range 100 { // a Wake before Sleep is not lost, and serves once
		a.Wake()
		a.Sleep(never)
	}
	// No Wake that meets a Sleep at any point is lost.
	for range 2000 {
		done := make(chan struct{})
		go func() { a.Sleep(never); close(done) }()
		a.Wake()
		<-done
	}
	// Nor is a frame, when the sleeper is armed.
	var got atomic.Int64
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range 2000 {
			if _, err := next(ctx, a); err != nil {
				t.Error(err)
				return
			}
			got.Add(1)
		}
	}()
	for i := range 2000 {
		require.NoError(t, b.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}))
		if i%3 == 0 {
			for got.Load() <= int64(i) {
				runtime.Gosched()
			}
		}
	}
	<-finished
}

func TestUnarmedSleeperIsLeftAlone(t *testing.T) {
	a, b := socket.Pair(t, 1<<20)
	ctx := testContext(t)
	woke := make(chan struct{})
	go func() { a.Sleep(func() bool { return false }); close(woke) }()
	eventually(t, "it sleeps", func() bool { return goroutineIn("(*link).Sleep") })
	for range 100 { // this goroutine polls meanwhile
		require.NoError(t, b.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}))
		for {
			_, ok, err := socket.Look(a)
			require.NoError(t, err)
			if ok {
				break
			}
		}
	}
	select {
	case <-woke:
		t.Fatal("the sleeper was woken although it was not armed")
	default:
	}
	a.Arm()
	require.False(t, a.Ready())
	require.NoError(t, b.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify}))
	<-woke
}

func TestSendAllocatesNothing(t *testing.T) {
	a, b := socket.Pair(t, 1<<20)
	ctx := testContext(t)
	for _, n := range []int{64, 4 << 10, 33 << 10, 60 << 10, 64 << 10} {
		p := make([]byte, n)
		sent := &drivers.Frame{Kind: drivers.KindRequest, Tx: 1, Method: 2, Remaining: 3, Payload: p}
		got := new(drivers.Frame)
		var fail error
		roundTrip := func() {
			err := a.Send(ctx, sent)
			ok, err2 := b.Next(got)
			if err := errors.Join(err, err2); err != nil || !ok {
				fail = errors.Join(err, io.ErrNoProgress)
			}
		}
		roundTrip()
		require.Zero(t, testing.AllocsPerRun(1000, roundTrip), "%d bytes", n) // more than a buffer is kept for
		require.NoError(t, fail)
	}
}

// Frames combined with that of another sender arrive, in order, though its own frame was
// cut, or nobody sends anything else.
func TestLeftFrames(t *testing.T) {
	notify := func(tx uint64) *drivers.Frame {
		return &drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: []byte("combined")}
	}
	// cut sends a part of a frame, and returns when the system has no room any more.
	cut := func(t *testing.T, l drivers.Link) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, l.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, 8<<20)}), context.DeadlineExceeded)
	}
	for _, name := range []string{"there is room", "there is none", "another sender gives up"} {
		t.Run(name, func(t *testing.T) {
			a, b := socket.Pair(t, 1<<24)
			ctx := testContext(t)
			if name != "there is room" {
				cut(t, a)
			}
			release := socket.HoldSender(t, a)
			for tx := range uint64(100) {
				require.NoError(t, a.Send(ctx, notify(tx)))
			}
			if name == "another sender gives up" {
				// Another sender takes over the combined frames, and gives up.
				blocked := make(chan error, 1)
				short, cancel := context.WithCancel(ctx)
				go func() {
					blocked <- a.Send(short, &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, 1<<20)})
				}()
				release()
				cancel()
				require.Error(t, <-blocked)
			} else {
				release()
			}
			for tx := range uint64(100) {
				f, err := next(ctx, b)
				require.NoError(t, err)
				require.Equal(t, tx, f.Tx)
			}
		})
	}
}
