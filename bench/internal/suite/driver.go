package suite

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// Drivers are the subjects that are drivers of this module.
var Drivers = []string{shm.Name, "socket"}

// Way is a driver and how it waits.
type Way struct {
	Subject string
	Wait    string // "" if the driver has no choice
}

func (w Way) String() string {
	if w.Wait == "" {
		return w.Subject
	}
	return w.Subject + " " + w.Wait
}

// Ways returns the drivers that the options choose, shm in each of its ways to
// wait, which are those given or else the defaults.
func Ways(o *Options, full, quick []string) []Way {
	var ways []Way
	if o.Wants(shm.Name) && ring.Supported() == nil {
		for _, wait := range Given(o, o.Waits, full, quick) {
			ways = append(ways, Way{shm.Name, wait})
		}
	}
	if o.Wants("socket") {
		ways = append(ways, Way{Subject: "socket"})
	}
	return ways
}

// WaitOf returns the strategy of this name.
func WaitOf(name string) shm.Wait {
	switch name {
	case "spin":
		return shm.Spin
	case "park":
		return shm.Park
	}
	return shm.Adaptive
}

// StartWay starts a worker. ringSize is shm's, 0 for its default.
func StartWay(ctx context.Context, way Way, ringSize int, opts ...worker.Option) (*Worker, error) {
	if way.Subject == shm.Name {
		return Start(ctx, way.String(), shm.Driver{Wait: WaitOf(way.Wait), RingSize: ringSize}, nil, opts...)
	}
	return Start(ctx, way.String(), socket.Driver{}, nil, opts...)
}

// Pool keeps workers between cases, so that each is started once.
type Pool struct {
	mu      sync.Mutex
	workers map[poolKey]*Worker
}

type poolKey struct {
	way   Way
	codec string
}

// With calls f with a worker of that way and codec.
//
// One that spins is started for f alone and ended after it: its worker would
// take a processor from those that are measured next.
func (p *Pool) With(ctx context.Context, way Way, codec ipc.Codec, f func(*Worker) error) error {
	key := poolKey{way, codec.Name()}
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.workers[key]
	if w == nil {
		var err error
		if w, err = StartWay(ctx, way, 0, worker.WithCodec(codec)); err != nil {
			return err
		}
		if way.Wait == "spin" {
			err = f(w)
			if closing := w.Close(); err == nil && closing != nil {
				err = fmt.Errorf("end the worker of %v: %w", way, closing)
			}
			return err
		}
		if p.workers == nil {
			p.workers = make(map[poolKey]*Worker)
		}
		p.workers[key] = w
	}
	return f(w)
}

// Close ends all workers.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all sync.WaitGroup
	for _, w := range p.workers {
		all.Go(func() {
			if err := w.Close(); err != nil {
				// What was measured is complete and correct all the same.
				fmt.Fprintf(os.Stderr, "end the worker of %s: %v\n", w.name, err)
			}
		})
	}
	all.Wait()
	p.workers = nil
}
