package processor

import (
	"context"
	"log/slog"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

// workers is a pool, whatever its driver.
type workers interface {
	ipc.Caller
	Close() error
}

// manyCalls is more than a stream has in flight: its own threads bound that, and a batch waits instead of being
// refused.
const manyCalls = 1 << 30

// newWorkers starts the workers of a processor.
func newWorkers(c *config, res *service.Resources) (workers, error) {
	if c.driver == shm.Name {
		return newPool(c, shm.Driver{}, res)
	}
	return newPool(c, socket.Driver{}, res)
}

func newPool[C drivers.Channel](c *config, driver drivers.Driver[C], res *service.Resources) (workers, error) {
	log := slog.New(&handler{log: res.Logger()})
	opts := []worker.Option{
		worker.WithCallTimeout(c.timeout),
		worker.WithRestart(worker.Restart{MaxRestarts: -1}), // a stream goes on when the cause has gone
		worker.WithLogger(log),
		worker.WithOutput(log),
		worker.WithEvents(observe(res)),
	}
	if c.heartbeat > 0 {
		opts = append(opts, worker.WithHeartbeat(max(c.heartbeat/4, 1), max(c.heartbeat/2, 1)))
	}
	o := []pool.Option{pool.WithWorkers(opts...), pool.WithQueue(manyCalls)}
	if c.concurrency > 0 {
		o = append(o, pool.WithConcurrency(c.concurrency))
	}
	p, err := pool.New(context.Background(), c.workers, c.command, driver, o...)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// observe returns a function that tells the engine's log and metrics what happens to workers.
func observe(res *service.Resources) func(worker.Event) {
	log, restarts := res.Logger(), res.Metrics().NewCounter("tandem_worker_restarts")
	return func(e worker.Event) {
		switch {
		case e.Kind == worker.EventRestarting:
			log.Warnf("The worker with process id %d has ended: %v; the next one starts in %v", e.PID, e.Err, e.Delay)
			restarts.Incr(1)
		case e.Kind == worker.EventGaveUp:
			log.Errorf("A worker cannot be started any more: %v", e.Err)
		case e.Kind == worker.EventReady && e.Attempt > 1:
			log.Infof("A worker was started again, with process id %d", e.PID)
		}
	}
}
