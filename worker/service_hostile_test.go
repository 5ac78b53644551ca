//go:build unix

package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// hostileLink dials a service as a client that sends what it likes. It reads, and drops, what comes.
func hostileLink(t *testing.T, d serviceDriver, name string) (l drivers.Link, ended chan struct{}) {
	t.Helper()
	l, err := d.Dial(t.Context(), name, drivers.DialOptions{Hello: drivers.Hello{Codec: "cbor"}})
	require.NoError(t, err)
	l.Arm()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		var f drivers.Frame
		for {
			ok, err := l.Next(&f)
			if err != nil {
				return
			}
			if !ok {
				l.Sleep(l.Ready)
			}
		}
	}()
	return l, ended
}

// Whatever frames a client sends, and in whatever order, it harms itself at most.
func TestServiceOddFrames(t *testing.T) {
	methods := []uint64{0, add.Info().ID, rawEcho.Info().ID, numbers.Info().ID, 1 << 63}
	payloads := [][]byte{nil, {0}, {1}, bytes.Repeat([]byte{0xff}, 8), bytes.Repeat([]byte{0xff}, 64), make([]byte, 16), make([]byte, 4000)}
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			stop := serveHere(t, d, name, drivers.ListenConfig{}, worker.WithGrace(100*time.Millisecond))
			honest := dial(t, d, name)
			_, err := add.Call(t.Context(), honest, pair{1, 2})
			require.NoError(t, err)
			before := leaktest.Descriptors()
			for kind := range 32 {
				for _, tx := range []uint64{0, 1, 2, 3, 1 << 63} {
					l, ended := hostileLink(t, d, name)
					for _, method := range methods {
						for _, payload := range payloads {
							ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
							_ = l.Send(ctx, &drivers.Frame{Kind: drivers.Kind(kind), Tx: tx, Method: method, Payload: payload})
							cancel()
						}
					}
					l.Shutdown()
					<-ended
					l.Close()
				}
				n, err := add.Call(t.Context(), honest, pair{kind, 2})
				require.NoError(t, err)
				require.Equal(t, kind+2, n)
			}
			eventually(t, "descriptors are as before", func() bool { return maps.Equal(before, leaktest.Descriptors()) })
			require.NoError(t, honest.Close())
			require.NoError(t, stop())
		})
	}
}

// A client that says goodbye and goes on sending, or that does not leave, keeps neither its place nor the service.
func TestServiceClientDoesNotLeave(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			stop := serveHere(t, d, name, drivers.ListenConfig{MaxClients: 1}, worker.WithGrace(100*time.Millisecond))
			l, ended := hostileLink(t, d, name)
			require.NoError(t, l.Send(t.Context(), &drivers.Frame{Kind: drivers.KindGoodbye}))
			sent := 0
			for ; sent < 1<<20; sent++ {
				if err := l.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify, Method: add.Info().ID, Payload: []byte{1}}); err != nil {
					break
				}
			}
			within(t, ended)
			l.Close()
			eventually(t, "its place is free", func() bool {
				c, err := worker.Dial(t.Context(), name, d)
				if err != nil {
					require.ErrorIs(t, err, ipc.ErrExhausted)
					return false
				}
				return c.Close() == nil
			})
			eventually(t, "the place is free again", func() bool {
				var err error
				if l, err = d.Dial(t.Context(), name, drivers.DialOptions{Hello: drivers.Hello{Codec: "cbor"}}); err != nil {
					require.ErrorIs(t, err, ipc.ErrExhausted)
				}
				return err == nil
			})
			defer l.Close()
			stopped := make(chan error, 1)
			go func() { stopped <- stop() }() // it says goodbye to a client that does not read
			require.NoError(t, within(t, stopped))
		})
	}
}

// Clients that get buffers and files and never release them leave nothing in the service once they are gone.
func TestServiceClientKeepsWhatItGets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	eachService(t, func(t *testing.T, d serviceDriver, s *serviceProcess) {
		open := func() int {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid()))
			require.NoError(t, err)
			return len(fds)
		}
		honest := dial(t, d, s.name)
		useService(t, d, honest)
		base := -1
		for range 20 {
			greedy := dial(t, d, s.name)
			var kept []ipc.Buffer
			for range 20 {
				b, err := greedy.Alloc(t.Context(), 1<<20)
				require.NoError(t, err)
				back, err := bufferEcho.Call(t.Context(), greedy, b)
				require.NoError(t, err)
				kept = append(kept, b, back)
			}
			require.NoError(t, greedy.Close())
			useService(t, d, honest)
			for _, b := range kept {
				b.Release()
			}
			if base < 0 {
				eventually(t, "descriptors settle", func() bool { now := open(); defer func() { base = now }(); return base == now })
			}
		}
		eventually(t, "the service has what it had", func() bool { return open() <= base })
	})
}
