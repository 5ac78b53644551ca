//go:build unix

package intercept_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	"golang.org/x/time/rate"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/intercept"
)

// Stock is the contract between host and worker.
var Stock = ipc.NewMethod[string, int]("inventory.stock")

// serveInventory is what main runs in the worker: worker.Main("inventory", serveInventory). At
// most a hundred requests run at a time, and a thousand wait. Tenants that it does not know are
// turned away.
func serveInventory() error {
	s := worker.NewServer(worker.WithServerInterceptors(
		intercept.Logging(slog.Default(), intercept.LogOptions{Metadata: []string{"tenant"}}),
		intercept.ConcurrencyLimit(intercept.Handlers, 100, 1000),
		ipc.Interceptor{Handle: checkTenant},
	))
	worker.Handle(s, Stock, func(_ context.Context, what string) (int, error) { return len(what), nil })
	return s.Serve(context.Background())
}

// checkTenant is an interceptor of its own: it lets through what comes from a tenant that it
// knows.
func checkTenant(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
	if tenant := call.Metadata.Get("tenant"); tenant != "acme" {
		return ipc.NewError(ipc.CodePermissionDenied, fmt.Sprintf("no tenant %q", tenant))
	}
	return next(ctx)
}

// A host that sends its tenant with every call, makes no more than a thousand calls a second,
// and writes down how they went.
func Example() {
	out := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey, "duration", "peer":
			return slog.Attr{} // which differ each time
		}
		return a
	}}))
	tenant := "acme"
	w, err := worker.Start(context.Background(), worker.Self("inventory"), worker.WithInterceptors(
		intercept.Logging(out, intercept.LogOptions{Done: slog.LevelInfo}),
		intercept.Throttle(intercept.Calls, rate.NewLimiter(1000, 10)),
		ipc.Interceptor{Call: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			call.Metadata.Set("tenant", tenant)
			return next(ctx)
		}},
	))
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	fmt.Println(Stock.Call(context.Background(), w, "bolts"))
	tenant = "somebody"
	_, err = Stock.Call(context.Background(), w, "nuts")
	fmt.Println(err)
	// Output:
	// level=INFO msg="tandem: call" method=inventory.stock request=6 response=1
	// 5 <nil>
	// level=INFO msg="tandem: attempt" method=inventory.stock request=5 attempt=1 code=permission_denied error="permission_denied: no tenant \"somebody\""
	// level=WARN msg="tandem: call" method=inventory.stock request=5 code=permission_denied error="permission_denied: no tenant \"somebody\""
	// permission_denied: no tenant "somebody"
}
