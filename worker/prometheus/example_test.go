//go:build unix

package prometheus_test

import (
	"context"
	"fmt"
	"log"

	client "github.com/prometheus/client_golang/prometheus"

	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
	"github.com/tandemipc/tandem/worker/prometheus"
)

// A pool whose calls are measured, and the pool itself.
func ExampleNewCollector() {
	metrics := prometheus.NewCollector(prometheus.Options{})
	registry := client.NewRegistry() // a program would serve it over HTTP, with promhttp
	registry.MustRegister(metrics)

	p, err := pool.New(context.Background(), 2, worker.Self("measured"), socket.Driver{},
		pool.WithWorkers(worker.WithInterceptors(metrics.Interceptor())))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	metrics.AddPool("echo", p)
	for range 3 {
		if _, err := echo.Call(context.Background(), p, "hello"); err != nil {
			log.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tandem_calls_total" || f.GetName() == "tandem_pool_workers" {
			for _, m := range f.GetMetric() {
				fmt.Println(f.GetName(), m.GetLabel()[0].GetValue(), m.GetCounter().GetValue()+m.GetGauge().GetValue())
			}
		}
	}
	// Output:
	// tandem_calls_total ok 3
	// tandem_pool_workers echo 0
	// tandem_pool_workers echo 2
	// tandem_pool_workers echo 0
}
