//go:build linux

package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

const (
	grace = 100 * time.Millisecond
	// guard bounds what only a hang makes last.
	guard = 60 * time.Second
	// soon is a timeout in rows where it has to run out.
	soon = 200 * time.Millisecond
)

// report is what the honest side says of a row.
type report struct {
	// Start is the class of the error of the start: of Spawn, or of Serve without a link.
	// Later is that of Serve after its link, or of Close.
	Start, Later outcome
	// Calls are how the calls of the honest side have ended, Last is how its last one.
	Calls []outcome
	Last  outcome
	// Again is how it went to connect again, in rows that do.
	Again outcome
	// Grown is by how much the most memory that the process has had at a time exceeds
	// what it had at first, in MiB.
	Grown int
	Leaks []string
}

// outcome is how a call has ended.
type outcome struct{ Class, Text string }

// The classes of outcomes. An error is of the first one that it fits.
const (
	right    = "right data"
	wrong    = "wrong data"
	protocol = "protocol error"
	gone     = "peer gone"
	timeout  = "timeout"
	canceled = "canceled"
	closed   = "closed"
	mismatch = "mismatch"
	refused  = "refused"
	remote   = "remote error"
	local    = "local error"
	impostor = "wrong peer"
	other    = "undocumented error"
)

// classify says of which class an error is.
func classify(err error) outcome {
	if err == nil {
		return outcome{Class: right}
	}
	class := other
	var e *ipc.Error
	switch {
	case errors.Is(err, socket.ErrWrongPeer):
		class = impostor
	case errors.Is(err, ipc.ErrProtocol):
		class = protocol
	case errors.As(err, new(*ipc.MismatchError)):
		class = mismatch
	case errors.As(err, new(*ipc.RefusedError)):
		class = refused
	case errors.Is(err, ipc.ErrClosed):
		class = closed
	case errors.As(err, new(*ipc.TimeoutError)):
		class = timeout
	case errors.As(err, new(*ipc.ExitError)), errors.Is(err, ipc.ErrPeerGone), errors.Is(err, ipc.ErrDisconnected):
		class = gone
	case errors.As(err, &e) && e.Remote():
		class = remote
	case errors.As(err, &e):
		class = local
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		class = canceled
	}
	return outcome{class, fmt.Sprintf("%.500s", err)}
}

// compare classifies the answer of a call.
func compare(err error, same bool) outcome {
	if err == nil && !same {
		return outcome{Class: wrong}
	}
	return classify(err)
}

// calls makes calls of every kind at the same time, and the last call when they have ended.
func (r *report) calls(caller ipc.Caller, row *row) {
	ctx := context.Background()
	var mu sync.Mutex
	add := func(o outcome) {
		mu.Lock()
		defer mu.Unlock()
		r.Calls = append(r.Calls, o)
	}
	small, large := bytes.Repeat([]byte("small"), 20), bytes.Repeat([]byte("a large request "), 10<<10)
	var all sync.WaitGroup
	for _, request := range [][]byte{nil, small, small, large} {
		all.Go(func() {
			for range 5 {
				answer, err := echo.Call(ctx, caller, request)
				add(compare(err, bytes.Equal(answer, request)))
			}
		})
	}
	all.Go(func() {
		var answer []byte
		for range 5 {
			err := echo.CallInto(ctx, caller, small, &answer)
			add(compare(err, bytes.Equal(answer, small)))
		}
	})
	all.Go(func() {
		n, err := sum.Call(ctx, caller, []int{1, 2, 3})
		add(compare(err, n == 6))
	})
	all.Go(func() {
		for range 10 {
			add(classify(told.Notify(ctx, caller, small)))
		}
	})
	all.Go(func() {
		var futures []*ipc.Future[[]byte]
		for range 10 {
			f, err := echo.Go(ctx, caller, small)
			if err != nil {
				add(classify(err))
				continue
			}
			futures = append(futures, f)
		}
		for _, f := range futures {
			answer, err := f.Wait(ctx)
			add(compare(err, bytes.Equal(answer, small)))
		}
	})
	all.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		answer, err := echo.Call(ctx, caller, large)
		add(compare(err, bytes.Equal(answer, large)))
	})
	if row.streams {
		all.Go(func() { add(classify(readStream(ctx, caller))) })
	}
	all.Wait()
	_, err := last.Call(ctx, caller, nil)
	r.Last = classify(err)
}

// handle registers the handlers of the honest side.
func handle(r worker.Registrar) {
	worker.Handle(r, echo, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	worker.Handle(r, told, func(context.Context, []byte) ([]byte, error) { return nil, nil })
	worker.Handle(r, sum, func(_ context.Context, numbers []int) (n int, err error) {
		for _, k := range numbers {
			n += k
		}
		return n, nil
	})
	worker.HandleInPlace(r, inPlace, func(_ context.Context, call worker.InPlace) error {
		call.Reply(call.Request())
		return nil
	})
	wait := func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	worker.Handle(r, stuck, wait)
	worker.Handle(r, few, wait, worker.WithConcurrency(4))
	worker.HandleBidiStream(r, echoStream, echoItems)
	worker.HandleBidiStream(r, doublingStream, func(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
		b, err := in.Receive(ctx)
		if err != nil {
			return err
		}
		for range 100 {
			if err := out.Send(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
	worker.HandleBidiStream(r, stuckStream, func(ctx context.Context, _ *ipc.Receiver[[]byte], _ *ipc.Sender[[]byte]) error {
		<-ctx.Done()
		return ctx.Err()
	})
	worker.HandleBidiStream(r, endedStream, func(context.Context, *ipc.Receiver[[]byte], *ipc.Sender[[]byte]) error { return nil })
}

func echoItems(ctx context.Context, in *ipc.Receiver[[]byte], out *ipc.Sender[[]byte]) error {
	for b, err := range in.All(ctx) {
		if err != nil {
			return err
		}
		if err := out.Send(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// readStream opens a stream, and reads it to its end.
func readStream(ctx context.Context, caller ipc.Caller) error {
	st, err := echoStream.Open(ctx, caller)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Send(ctx, []byte("x")); err != nil && err != io.EOF { // the peer may have ended it already
		return err
	}
	for _, err := range st.All(ctx) {
		if err != nil {
			return err
		}
	}
	return nil
}

// honestHost is the honest side as a host.
func honestHost() error {
	row := find(os.Getenv(rowEnv))
	os.Unsetenv(roleEnv)
	var r report
	err := r.measure(func() {
		opts := []worker.Option{
			worker.WithMaxMessage(maxMessage), worker.WithGrace(grace),
			worker.WithStartTimeout(row.startTimeout()), worker.WithCallTimeout(row.callTimeout()),
		}
		if os.Getenv(driverEnv) == "shm" {
			host(&r, row, shm.Driver{RingSize: ringSize}, opts)
		} else {
			host(&r, row, socket.Driver{Connect: socket.Connect{Attempts: 1}}, opts)
		}
	})
	return err
}

func host[C drivers.Channel](r *report, row *row, d drivers.Driver[C], opts []worker.Option) {
	if row.heartbeat {
		opts = append(opts, worker.WithHeartbeat(soon, soon))
	}
	cmd := worker.Self("hostile")
	cmd.Stderr = os.Stderr
	if row.captured {
		cmd.Stderr = nil
		opts = append(opts, worker.WithOutput(quiet))
	}
	var handlers worker.Handlers
	handle(&handlers) // before anything can be asked
	opts = append(opts, worker.WithHandlers(&handlers))
	w, err := worker.Spawn(context.Background(), cmd, d, opts...)
	r.Start = classify(err)
	if err != nil {
		return
	}
	r.calls(w, row)
	if c, ok := any(w.Channel()).(*socket.Channel); ok && row.again != "" {
		err := c.Disconnect()
		if err == nil {
			err = c.Reconnect(context.Background())
		}
		r.Again = classify(err)
	}
	r.Later = classify(w.Close())
}

// honestWorker is the honest side as a worker.
func honestWorker() error {
	row := find(os.Getenv(rowEnv))
	// Serve ends with the last call, and a host that exits may not end us before we report.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	var r report
	return r.measure(func() {
		ctx, cancel := context.WithCancel(context.Background())
		s := worker.NewServer()
		handle(s)
		worked := false
		worker.Handle(s, work, func(ctx context.Context, _ []byte) ([]byte, error) {
			worked = true
			r.calls(worker.Host(ctx), row)
			cancel()
			return nil, nil
		})
		err := s.Serve(ctx)
		cancel()
		if r.Start = classify(nil); !worked {
			r.Start = classify(err)
		} else {
			r.Later = classify(err)
		}
	})
}

// measure runs the honest side, and reports how it went and what it took.
func (r *report) measure(f func()) error {
	syscall.CloseOnExec(reportFD)
	out := os.NewFile(reportFD, "report")
	base, err := peakMemory()
	if err != nil {
		return err
	}
	baseline := drivertest.NewBaseline()
	hung := time.AfterFunc(guard*3/2, func() { _ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2) })
	f()
	hung.Stop()
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	r.Grown = peak - base
	for start := time.Now(); ; { // what a peer has begun may take a while to end
		if r.Leaks = baseline.Leaks(); len(r.Leaks) == 0 || time.Since(start) > guard {
			break
		}
	}
	return json.NewEncoder(out).Encode(r)
}

// peakMemory returns the most memory that this process has had at a time, in MiB. Memory
// that it shares with others, such as the rings, counts.
func peakMemory() (int, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	rest, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.Atoi(rest)
	return kib >> 10, err
}
