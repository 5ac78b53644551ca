package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/ipc"
)

// cluster is the machines, and a client of their service.
type cluster struct {
	machines []*machine
	nc       *nats.Conn
	client   *natsipc.Client
	places   int // calls at a time
	again    atomic.Int64
}

// startCluster starts machines, and returns when all of them serve.
func startCluster(ctx context.Context, url string, machines, workers int) (c *cluster, err error) {
	c = &cluster{places: 4 * machines * workers}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.nc, err = nats.Connect(url, nats.Timeout(startTimeout)); err != nil {
		return c, fmt.Errorf("connect to %s: %w", url, err)
	}
	for i := range machines {
		m, err := startMachine(fmt.Sprintf("machine-%d", i+1), url, workers)
		if err != nil {
			return c, err
		}
		c.machines = append(c.machines, m)
	}
	// A machine that has not been heard of for three to four heartbeats is gone: then what it had is sent to another one, or to the same
	// as long as NATS still has that in the service.
	c.client = natsipc.Caller(c.nc, serviceName, natsipc.WithHeartbeat(200*time.Millisecond), natsipc.WithRetry(20), natsipc.WithInterceptors(ipc.Interceptor{
		Attempt: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			if call.Attempt > 1 {
				c.again.Add(1)
			}
			return next(ctx)
		},
	}))
	return c, awaitMachines(ctx, c.nc, c.machines)
}

// close ends all.
func (c *cluster) close() {
	if c.client != nil {
		_ = c.client.Close()
	}
	var all sync.WaitGroup
	for _, m := range c.machines {
		all.Go(m.close)
	}
	all.Wait()
	if c.nc != nil {
		c.nc.Close()
	}
}

// result is what was counted, and by whom.
type result struct {
	totals Totals
	pieces map[string]int
	bytes  map[string]int64
	again  *atomic.Int64
}

// count counts files of so many bytes, and calls half, if it is not nil, when half of that is counted.
func (c *cluster) count(ctx context.Context, files []string, size int64, half func()) (*result, error) {
	r := &result{pieces: make(map[string]int), bytes: make(map[string]int64), again: &c.again}
	var mu sync.Mutex
	var once sync.Once
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(c.places)
	for _, path := range files {
		err := eachPiece(path, func(text []byte) error {
			text = append([]byte(nil), text...)
			calls.Go(func() error {
				got, err := count.Call(ctx, c.client, text)
				if err != nil {
					return fmt.Errorf("count %s: %w", path, err)
				}
				mu.Lock()
				r.totals.add(got.Totals)
				r.pieces[got.Machine]++
				r.bytes[got.Machine] += got.Bytes
				over := r.totals.Bytes >= size/2
				mu.Unlock()
				if over && half != nil {
					once.Do(half)
				}
				return nil
			})
			return ctx.Err()
		})
		if err != nil {
			if failed := calls.Wait(); failed != nil {
				err = failed
			}
			return nil, err
		}
	}
	return r, calls.Wait()
}
