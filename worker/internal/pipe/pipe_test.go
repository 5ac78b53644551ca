package pipe

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// payloadOf returns the payload of a frame, which its number determines.
func payloadOf(number uint64) []byte {
	r := rand.New(rand.NewPCG(number, 0))
	size := []int{room + 1, 50 << 10, 5 << 10, 1 << 10, 10, 0}[min(r.IntN(12), 5)]
	return bytes.Repeat([]byte{byte(r.Uint32())}, size+r.IntN(7))
}

// Frames come in their order and whole, however many wait, though readers overwrite memory and give it back, or keep it.
func TestFramesAndSpareMemory(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			a, b := New(drivers.Hello{}, drivers.Hello{})
			ends := [2]drivers.Link{a, b}
			r := rand.New(rand.NewPCG(seed, 1))
			var sent, read [2]uint64 // by the end that sends
			kept := make(map[uint64][]byte)
			next := func(from int) {
				var f drivers.Frame
				ok, err := ends[1-from].Next(&f)
				require.NoError(t, err)
				require.Equal(t, sent[from] > read[from], ok)
				if !ok {
					return
				}
				require.Equal(t, sent[from] > read[from]+1, f.More)
				require.Equal(t, read[from], f.Tx)
				require.True(t, bytes.Equal(payloadOf(f.Tx), f.Payload))
				read[from]++
				switch r.IntN(3) {
				case 0:
					kept[f.Tx<<1|uint64(from)] = f.Payload
				case 1:
					copy(f.Payload[:cap(f.Payload)], bytes.Repeat([]byte{0xff}, cap(f.Payload)))
					ends[r.IntN(2)].Recycle(f.Payload)
				}
			}
			for range 400 {
				from := r.IntN(2)
				waits := 0
				if to := ends[from].(*link).out; sent[from] > read[from] {
					waits = to.bytes
				}
				if payload := payloadOf(sent[from]); r.IntN(5) < 3 && (waits == 0 || waits+len(payload)+drivers.MaxHeader <= room) {
					require.NoError(t, ends[from].Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify, Tx: sent[from], Payload: payload}))
					sent[from]++
				} else {
					next(from)
				}
			}
			for from := range ends {
				for sent[from] > read[from] {
					next(from)
				}
			}
			for key, b := range kept {
				require.True(t, bytes.Equal(payloadOf(key>>1), b), "what was kept has changed")
			}
		})
	}
}

// A queue that is never empty does not grow by the frames that have left it.
func TestQueueDoesNotGrow(t *testing.T) {
	a, b := New(drivers.Hello{}, drivers.Hello{})
	var f drivers.Frame
	for i := range uint64(100_000) {
		require.NoError(t, a.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify, Tx: i}))
		if i >= 10 {
			ok, err := b.Next(&f)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, i-10, f.Tx)
		}
	}
	require.Less(t, cap(b.(*link).in.frames), 100)
}

// What was sent before the end still comes; both ends know why it has come, and a sender that waits for room does.
func TestEnd(t *testing.T) {
	a, b := New(drivers.Hello{}, drivers.Hello{})
	large := &drivers.Frame{Kind: drivers.KindNotify, Payload: make([]byte, room)}
	require.NoError(t, a.Send(t.Context(), large))
	var waits sync.WaitGroup
	var err error
	waits.Go(func() { err = a.Send(t.Context(), large) })
	b.Shutdown()
	waits.Wait()
	require.ErrorIs(t, err, ipc.ErrPeerGone)
	var f drivers.Frame
	ok, err := b.Next(&f)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = b.Next(&f)
	require.ErrorIs(t, err, ipc.ErrDisconnected)
}

// Both ends may send when the link has ended.
func TestSendAfterTheEnd(t *testing.T) {
	a, b := New(drivers.Hello{}, drivers.Hello{})
	a.Shutdown()
	var both sync.WaitGroup
	for end, want := range map[drivers.Link]error{a: ipc.ErrDisconnected, b: ipc.ErrPeerGone} {
		both.Go(func() {
			for range 100_000 {
				if err := end.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify}); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		both.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
	}
}

// A frame that finds the peer in the middle of its Shutdown is not sent, and its sender is told.
func TestSendWhileThePeerEnds(t *testing.T) {
	a, b := New(drivers.Hello{}, drivers.Hello{})
	b.(*link).in.finish(ipc.ErrDisconnected) // the first half
	require.ErrorIs(t, a.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrPeerGone)
	b.Shutdown()
	require.ErrorIs(t, a.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify}), ipc.ErrPeerGone)
}
