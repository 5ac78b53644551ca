//go:build unix

package intercept_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/intercept"
)

// The contract of the test worker.
var (
	echo = ipc.NewMethod[string, string]("intercept_test.echo")
	hold = ipc.NewMethod[string, string]("intercept_test.hold") // until its context ends
	runs = ipc.NewMethod[int, int]("intercept_test.runs")       // of hold that run
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	worker.Main("limited", serveLimited)
	worker.Main("inventory", serveInventory)
	os.Exit(drivertest.VerifyNoLeaks(m.Run))
}

// serveLimited runs two requests of hold at a time, lets one wait, and keeps the stacks of
// panics to itself.
func serveLimited() error {
	limit := intercept.ConcurrencyLimit(intercept.Handlers, 2, 1)
	running := make(chan struct{}, 100)
	s := worker.NewServer(worker.WithServerInterceptors(
		intercept.Recovery(intercept.Handlers, func(_ context.Context, _ *ipc.Call, panicked *ipc.Error) error {
			return ipc.NewError(panicked.Code, "an accident")
		}),
		ipc.Interceptor{Handle: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			if call.Method.Name != hold.Info().Name {
				return next(ctx)
			}
			return limit.Handle(ctx, call, next)
		}},
	))
	worker.Handle(s, echo, func(_ context.Context, text string) (string, error) {
		if text == "panic" {
			panic("at the disco")
		}
		return text, nil
	})
	worker.Handle(s, hold, func(ctx context.Context, text string) (string, error) {
		running <- struct{}{}
		defer func() { <-running }()
		<-ctx.Done()
		return text, ctx.Err()
	})
	worker.Handle(s, runs, func(context.Context, int) (int, error) { return len(running), nil })
	return s.Serve(context.Background())
}

// eachDriver runs a test with a worker of each driver.
func eachDriver(t *testing.T, test func(t *testing.T, w ipc.Caller), opts ...worker.Option) {
	t.Run("shm", func(t *testing.T) {
		w, err := worker.Spawn(t.Context(), worker.Self("limited"), shm.Driver{}, opts...)
		if errors.Is(err, ipc.ErrUnsupported) {
			t.Skip(err)
		}
		require.NoError(t, err)
		defer w.Close()
		test(t, w)
	})
	t.Run("socket", func(t *testing.T) {
		w, err := worker.Spawn(t.Context(), worker.Self("limited"), socket.Driver{}, opts...)
		require.NoError(t, err)
		defer w.Close()
		test(t, w)
	})
}
