package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

const kindLink = "link"

func planPath(o *suite.Options) (suite.Plan, error) {
	if err := ring.Supported(); err != nil {
		return suite.Plan{Skipped: []string{err.Error()}}, nil
	}
	encoded := encodedOrder()
	lines, bare, links, pool := new(limits), new(rings.Pool), new(links), new(suite.Pool)
	var g suite.Group
	add := func(subject, wait, mode, codec string, size int, run func(context.Context, time.Duration) (measure.Sample, error)) {
		if !o.Wants(subject) {
			return
		}
		r := report.Result{Scenario: "path", Subject: subject, Wait: wait, Mode: mode, Codec: codec}
		if size > 0 {
			r.Bytes = new(size)
		}
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: run})
	}
	add(oneLine, "", "", "", 0, lines.runner(oneLine))
	add(twoLines, "", "", "", 0, lines.runner(twoLines))
	add(rings.Copy, adaptive, "", "", 8, ringTrips(bare, adaptive, 8))
	add(rings.Copy, adaptive, "", "", 64, ringTrips(bare, adaptive, 64))
	add(linkFrames, adaptive, "", "", 64, links.roundTrips(64))
	calls := func(way suite.Way, mode, codec string, size int, op func(*suite.Worker) suite.Operation) {
		add(way.Subject, way.Wait, mode, codec, size, func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
			err = pool.With(ctx, way, ipc.CBOR, func(w *suite.Worker) error {
				s, err = suite.MeasureTrips(ctx, w, d, size, suite.TripsTogether, trips(ctx, op(w)))
				return err
			})
			return s, err
		})
	}
	raw := func(way suite.Way, mode string, size int) {
		calls(way, mode, "raw", size, func(w *suite.Worker) suite.Operation { return rawLoad(w, mode, size, 1).New(0) })
	}
	way := suite.Way{Subject: shm.Name, Wait: adaptive}
	raw(way, inPlace, 64)
	calls(way, "", "fixed", tickSize, func(w *suite.Worker) suite.Operation { return &tickCall{method: echoFixed, to: w} })
	raw(way, "", 64)
	raw(way, "", len(encoded))
	add(codecAlone, "", "", "cbor", len(encoded), recode)
	calls(way, "", "cbor", len(encoded), func(w *suite.Worker) suite.Operation { return &orderCall{to: w, request: newOrder()} })
	calls(way, "", "cbor", len(encodedTick()), func(w *suite.Worker) suite.Operation {
		return &tickCall{method: echoTick, to: w, request: newTick()}
	})
	raw(suite.Way{Subject: "socket"}, inPlace, 64)
	return suite.Plan{Groups: []suite.Group{g}, Close: func() {
		lines.close()
		bare.Close()
		links.close()
		pool.Close()
	}}, nil
}

// recode measures what the codec takes for one call, of both sides together.
func recode(_ context.Context, d time.Duration) (measure.Sample, error) {
	var buf []byte
	pass := func(o order) (back order, err error) {
		if buf, err = ipc.Marshal(ipc.CBOR, buf[:0], o); err != nil {
			return o, err
		}
		return ipc.Unmarshal[order](ipc.CBOR, buf)
	}
	call := &orderCall{request: newOrder()}
	var seq uint64
	trip := func() error {
		call.Prepare(seq)
		seq++
		there, err := pass(call.request)
		if err != nil {
			return err
		}
		if call.response, err = pass(there); err != nil {
			return err
		}
		return call.Check()
	}
	return timeAlone(d, trip)
}

// links keeps the worker of frames without calls.
type links struct {
	worker *suite.Worker
	link   drivers.Link
}

func (l *links) roundTrips(size int) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (measure.Sample, error) {
		if l.worker == nil {
			var err error
			if l.worker, l.link, err = suite.StartEnds(ctx, kindLink, func(ctx context.Context, w *suite.Worker) error {
				_, err := runEnd.Call(ctx, w, endRequest{Kind: kindLink})
				return err
			}, openLink); err != nil {
				return measure.Sample{}, err
			}
		}
		f := &drivers.Frame{Kind: drivers.KindRequest, Method: echoRaw.Info().ID, Payload: make([]byte, size)}
		answer := new(drivers.Frame)
		return suite.MeasureTrips(ctx, l.worker, d, size, suite.TripsTogether, func() error {
			f.Tx += 2
			suite.Stamp(f.Payload, f.Tx)
			if err := l.link.Send(ctx, f); err != nil {
				return l.worker.Blame(err)
			}
			if err := nextFrame(l.link, answer); err != nil {
				return l.worker.Blame(err)
			}
			if answer.Tx != f.Tx || !bytes.Equal(answer.Payload, f.Payload) {
				return fmt.Errorf("%w: frame %d came back as %d with %x", suite.ErrGarbled, f.Tx, answer.Tx, answer.Payload)
			}
			return nil
		})
	}
}

func (l *links) close() {
	if l.worker == nil {
		return
	}
	if err := l.worker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "end the worker of path:", err)
	}
	_ = l.link.Close() // its peer is gone
}

// openLink makes one end of a link of shm, as a worker does, and says hello to
// the other.
func openLink(conn *os.File) (drivers.Link, error) {
	fd, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	options, err := ipc.CBOR.Append(nil, struct{}{}) // the defaults
	if err != nil {
		return nil, err
	}
	end, err := shm.Driver{}.Open(&drivers.StartupData{Control: fd, DriverData: options}, nil)
	if err != nil {
		return nil, err
	}
	defer end.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drivers.DefaultTimeouts().Start)
	defer cancel()
	return end.Accept(ctx, drivers.Hello{Codec: ipc.Raw.Name(), MaxMessage: rings.Bytes})
}

// startLinkEnd starts the worker's side, which sends every frame back.
func startLinkEnd() error {
	conn := os.NewFile(suite.EndFile, "control")
	defer conn.Close()
	l, err := openLink(conn)
	if err != nil {
		return err
	}
	go func() {
		f := new(drivers.Frame)
		for {
			err := nextFrame(l, f)
			if err == nil {
				f.Kind, f.Method = drivers.KindResponse, 0
				err = l.Send(context.Background(), f)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "link:", err)
				os.Exit(1) // which the host notices
			}
		}
	}()
	return nil
}

// nextFrame waits for the next frame, and puts it into f.
func nextFrame(l drivers.Link, f *drivers.Frame) error {
	for {
		if ok, err := l.Next(f); ok || err != nil {
			return err
		}
		if !l.Spin() {
			l.Arm()
			if !l.Ready() {
				l.Sleep(func() bool { return false })
			}
			l.Disarm()
		}
	}
}
