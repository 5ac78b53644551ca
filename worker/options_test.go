//go:build unix

package worker_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// What an option cannot mean panics where it is given, with the option's name.
func TestOptionsPanic(t *testing.T) {
	for name, misuse := range map[string]func(){
		"WithCodec":                         func() { worker.WithCodec(nil) },
		"fixed":                             func() { worker.WithCodec(ipc.Fixed) },
		"WithStartTimeout":                  func() { worker.WithStartTimeout(-1) },
		"WithHostTimeout":                   func() { worker.WithHostTimeout(math.MinInt64) },
		"WithCallTimeout":                   func() { worker.WithCallTimeout(-1) },
		"WithGrace":                         func() { worker.WithGrace(-time.Second) },
		"WithLogger":                        func() { worker.WithLogger(nil) },
		"WithHandlers":                      func() { worker.WithHandlers(nil) },
		"WithOutput":                        func() { worker.WithOutput(nil) },
		"WithEvents":                        func() { worker.WithEvents(nil) },
		"WithServerLogger":                  func() { worker.WithServerLogger(nil) },
		"RequireDriver":                     func() { worker.NewServer().RequireDriver(nil) },
		"RequireCodec":                      func() { worker.NewServer().RequireCodec(nil) },
		"WithConcurrency":                   func() { worker.WithConcurrency(0) },
		"heartbeat":                         func() { worker.WithHeartbeat(1, 0) },
		"WithResume":                        func() { worker.WithResume(0) },
		"attempts":                          func() { worker.WithRetry(0) },
		"WithMaxMemory":                     func() { worker.WithMaxMemory(-1) },
		"message":                           func() { worker.WithMaxMessage(1) },
		"window":                            func() { worker.WithWindow(drivers.MinWindow - 1) },
		"negative":                          func() { worker.WithRestart(worker.Restart{Delay: -1}) },
		"Handle: the method is nil":         func() { worker.Handle[int, int](worker.NewServer(), nil, nil) },
		"Handle: the handler is nil":        func() { worker.Handle(worker.NewServer(), double, nil) },
		"HandleInPlace: the handler is nil": func() { worker.HandleInPlace(worker.NewServer(), rawEcho, nil) },
		"nil context":                       func() { _, _ = worker.Start(nilContext(), worker.Self("test")) },
		"client is nil": func() {
			var c *worker.Client[*socket.Channel]
			_, _ = double.Call(t.Context(), c, 1)
		},
	} {
		require.Panics(t, misuse, name)
		func() {
			defer func() { require.Contains(t, recover(), name) }()
			misuse()
		}()
	}
}

func nilContext() context.Context { return nil }

// Durations near the end of their type are long, not over.
func TestLongDurations(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		const long = math.MaxInt64
		w, err := s.spawn(t.Context(), worker.Self("test"), worker.WithStartTimeout(long), worker.WithHostTimeout(long), worker.WithCallTimeout(long),
			worker.WithHeartbeat(long, long), worker.WithGrace(time.Minute))
		require.NoError(t, err)
		defer func() { require.NoError(t, w.Close()) }()
		for _, opts := range [][]ipc.CallOption{nil, {ipc.WithTimeout(long)}, {ipc.WithTimeout(long - 1)}} {
			_, err := sleep.Call(t.Context(), w, 20*time.Millisecond, opts...)
			require.NoError(t, err)
			f, err := sleep.Go(t.Context(), w, 20*time.Millisecond, opts...)
			require.NoError(t, err)
			_, err = f.Wait(t.Context())
			require.NoError(t, err)
			require.NoError(t, ipc.Batch(t.Context(), w, func(c ipc.Caller) error { return notify.Notify(t.Context(), c, "x", opts...) }))
		}
	})
}
