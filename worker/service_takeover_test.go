//go:build unix

package worker_test

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/worker"
)

// While processes take a listener over, two at a time, clients that come and go are all served, and one listens in the end.
func TestServiceTakeOverWhileClientsDial(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			ctx, end := context.WithCancel(context.Background())
			defer end()
			var running atomic.Int64
			var serving sync.WaitGroup
			serve := func(l drivers.Listener) {
				s := worker.NewServer()
				handleTest(s)
				running.Add(1)
				serving.Go(func() {
					defer running.Add(-1)
					assert.NoError(t, s.ServeListener(ctx, l, worker.WithGrace(time.Hour)))
				})
			}
			l, err := d.Listen(name, drivers.ListenConfig{})
			require.NoError(t, err)
			serve(l)
			var made, enough atomic.Int64
			var dialling sync.WaitGroup
			for range 32 {
				dialling.Go(func() {
					for enough.Load() == 0 && !t.Failed() {
						c, err := worker.Dial(t.Context(), name, d, worker.WithReconnect(hasty))
						if !assert.NoError(t, err) {
							return
						}
						_, err = add.Call(t.Context(), c, pair{1, 2})
						assert.NoError(t, err)
						assert.NoError(t, c.Close())
						made.Add(1)
					}
				})
			}
			for range 10 {
				before := made.Load()
				eventually(t, "clients", func() bool { return made.Load() > before+20 || t.Failed() })
				var successors sync.WaitGroup
				var took atomic.Int64
				for range 2 {
					successors.Go(func() {
						l, err := d.Listen(name, drivers.ListenConfig{TakeOver: true})
						if err != nil {
							assert.ErrorContains(t, err, "another process")
							return
						}
						took.Add(1)
						serve(l)
					})
				}
				successors.Wait()
				require.NotZero(t, took.Load())
				eventually(t, "one serves", func() bool { return running.Load() == 1 })
			}
			enough.Store(1)
			dialling.Wait()
			end()
			serving.Wait()
		})
	}
}

// A socket file that somebody else has made, and that the first process was to leave, outlives its successors, too.
func TestServiceTakeOverLeavesTheFile(t *testing.T) {
	for _, d := range serviceDrivers {
		t.Run(d.Name(), func(t *testing.T) {
			name := socketPath(t)
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
			require.NoError(t, err)
			ln.SetUnlinkOnClose(false)
			f, err := ln.File()
			require.NoError(t, err)
			require.NoError(t, ln.Close())
			l, err := d.Listen("", drivers.ListenConfig{File: f})
			require.NoError(t, err)
			require.NoError(t, f.Close())
			for range 3 {
				s := worker.NewServer()
				handleTest(s)
				served := make(chan error, 1)
				go func() { served <- s.ServeListener(t.Context(), l) }()
				c := dial(t, d, name, worker.WithReconnect(hasty))
				_, err := add.Call(t.Context(), c, pair{1, 2})
				require.NoError(t, err)
				l, err = d.Listen(name, drivers.ListenConfig{TakeOver: true})
				require.NoError(t, err)
				require.NoError(t, c.Close())
				require.NoError(t, within(t, served))
			}
			require.NoError(t, l.Close())
			_, err = os.Lstat(name)
			require.NoError(t, err)
		})
	}
}
