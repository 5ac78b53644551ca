package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/tandemipc/tandem/drivers"
	natsipc "github.com/tandemipc/tandem/drivers/nats"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pool"
)

const serviceName = "wordcount"

// What the process of a machine is told.
const (
	machineEnv = "TANDEM_CLUSTER_MACHINE" // its name
	natsEnv    = "TANDEM_CLUSTER_NATS"    // the URL
	workersEnv = "TANDEM_CLUSTER_WORKERS" // how many workers
)

// startTimeout is how long it may take to connect to NATS, where all start at the same time.
const startTimeout = 20 * time.Second

// machineMain is the main function of a machine. In other processes it does nothing.
func machineMain() {
	name := os.Getenv(machineEnv)
	if name == "" {
		return
	}
	if err := serveMachine(name); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveMachine serves until its stdin ends, which is when the process that has started it ends.
func serveMachine(name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	n, err := strconv.Atoi(os.Getenv(workersEnv))
	if err != nil {
		return err
	}
	nc, err := nats.Connect(os.Getenv(natsEnv), nats.Name(name), nats.Timeout(startTimeout))
	if err != nil {
		return err
	}
	defer nc.Close()
	err = forward(ctx, nc, name, n, shm.Driver{})
	if errors.Is(err, ipc.ErrUnsupported) {
		err = forward(ctx, nc, name, n, socket.Driver{})
	}
	return err
}

// forward puts a pool of local workers behind the service.
func forward[C drivers.Channel](ctx context.Context, nc *nats.Conn, name string, n int, driver drivers.Driver[C]) error {
	p, err := pool.New(ctx, n, worker.Self(workerName), driver) // workers have the environment of this process
	if err != nil {
		return err
	}
	defer p.Close()
	return natsipc.Forward(ctx, nc, p, natsipc.Service{
		Name: serviceName, Version: "1.0.0", Metadata: map[string]string{"machine": name}, Methods: []worker.HandledMethod{{MethodInfo: count.Info()}},
	})
}

// machine is the process of a machine, seen from the one that has started it.
type machine struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer
	ended  chan struct{}
	killed atomic.Bool
}

// startMachine starts a machine, in a process group of its own.
func startMachine(name, url string, workers int) (*machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &machine{name: name, cmd: exec.Command(self), ended: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), machineEnv+"="+name, natsEnv+"="+url, fmt.Sprintf("%s=%d", workersEnv, workers))
	m.cmd.Stderr = os.Stderr
	ownGroup(m.cmd)
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = m.cmd.Wait()
		close(m.ended)
	}()
	return m, nil
}

// kill kills a machine and its workers, as a power failure does.
func (m *machine) kill() {
	m.killed.Store(true)
	killGroup(m.cmd)
}

// close ends a machine in order, or kills it if it does not end.
func (m *machine) close() {
	_ = m.stdin.Close()
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		killGroup(m.cmd)
		<-m.ended
	}
}

// awaitMachines returns when so many machines serve.
func awaitMachines(ctx context.Context, nc *nats.Conn, machines []*machine) error {
	subject, err := micro.ControlSubject(micro.PingVerb, serviceName, "")
	if err != nil {
		return err
	}
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return err
	}
	defer answers.Unsubscribe()
	waiting := make(map[string]*machine)
	for _, m := range machines {
		waiting[m.name] = m
	}
	for len(waiting) > 0 {
		if err := nc.PublishRequest(subject, answers.Subject, nil); err != nil {
			return err
		}
		for {
			m, err := answers.NextMsg(50 * time.Millisecond)
			if err != nil {
				break // ask again
			}
			var ping micro.Ping
			if json.Unmarshal(m.Data, &ping) == nil {
				delete(waiting, ping.Metadata["machine"])
			}
		}
		for _, m := range waiting {
			select {
			case <-m.ended:
				return fmt.Errorf("%s does not start", m.name)
			default:
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
