package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
)

// streamHostRequest asks a worker to be the host of a worker, so that the memory of both is that
// of what they do, and not what earlier measurements have left.
type streamHostRequest struct {
	Way  suite.Way
	Most int // items of one stream
	Size int // of an item
	Idle int // or streams that are opened and then left alone
	For  time.Duration
}

type streamHostAnswer struct {
	Ops          int64
	Busy         time.Duration
	Elapsed      time.Duration
	Host, Worker measure.Usage
	Opening      time.Duration // of all idle streams
	// Before is the resident memory of both before, of which there is a part in each.
	Before int64
}

var streamHost = ipc.NewMethod[streamHostRequest, streamHostAnswer]("bench.streams.host", ipc.WithCodec(ipc.CBOR))

// inFreshHost measures what r asks for.
func inFreshHost(ctx context.Context, r streamHostRequest) (s measure.Sample, err error) {
	host, err := suite.Start(ctx, "stream host of "+r.Way.String(), socket.Driver{}, nil)
	if err != nil {
		return s, err
	}
	defer func() {
		if closing := host.Close(); err == nil {
			err = closing
		}
	}()
	a, err := streamHost.Call(ctx, host, r)
	if err != nil {
		return s, host.Blame(err)
	}
	s.Ops, s.Busy, s.Elapsed, s.Host, s.Worker = a.Ops, a.Busy, a.Elapsed, a.Host, a.Worker
	if r.Idle > 0 {
		// Of memory, what the streams have added.
		s.Host.RSS, s.Worker.RSS = max(s.Host.RSS+s.Worker.RSS-a.Before, 0), 0
		s.Note = fmt.Sprintf("each was opened in %s", report.Latency(int64(a.Opening)/int64(r.Idle)))
	} else {
		s.Note = fmt.Sprintf("of the memory, %d MiB before the stream", a.Before>>20)
		s.Bytes = s.Ops * int64(r.Size)
	}
	return s, nil
}

// hostStreams is the host's part.
func hostStreams(ctx context.Context, r streamHostRequest) (a streamHostAnswer, err error) {
	w, err := suite.StartWay(ctx, r.Way, 0)
	if err != nil {
		return a, err
	}
	defer func() {
		if closing := w.Close(); err == nil {
			err = w.Blame(closing)
		}
	}()
	if r.Idle > 0 {
		a, err = idleStreams(ctx, w, r)
	} else {
		a, err = oneStream(ctx, w, r)
	}
	return a, w.Blame(err)
}

// oneStream receives all items of one stream.
func oneStream(ctx context.Context, w *suite.Worker, r streamHostRequest) (a streamHostAnswer, err error) {
	s, err := w.MeasureMemory(ctx, func(s *measure.Sample) error {
		there, err := w.Usage(ctx, suite.UsageRequest{})
		if err != nil {
			return err
		}
		a.Before = measure.Self().RSS + there.RSS
		start := measure.Now()
		st, err := openBytes(ctx, w, wanted{Most: int64(r.Most), Size: int64(r.Size)})
		if err != nil {
			return err
		}
		defer st.Close()
		n, err := suite.ReceiveItems(byteReceiver(ctx, &st.Receiver, r.Size))
		s.Busy = measure.Now() - start
		if err == nil && n != uint64(r.Most) {
			err = fmt.Errorf("%w: %d items in the place of %d", suite.ErrGarbled, n, r.Most)
		}
		s.Ops = int64(n)
		return err
	})
	a.Ops, a.Busy, a.Elapsed, a.Host, a.Worker = s.Ops, s.Busy, s.Elapsed, s.Host, s.Worker
	return a, err
}

// idleStreams opens streams, each of which echoes one item, and lets them be idle.
func idleStreams(ctx context.Context, w *suite.Worker, r streamHostRequest) (a streamHostAnswer, err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()                                                                  // of all streams
	if _, err := passBytesEchoed(ctx, w, r.Size, time.Millisecond); err != nil { // what the first stream needs is no stream's
		return a, err
	}
	if a.Before, err = freed(ctx, w); err != nil {
		return a, err
	}
	opening := measure.Now()
	streams := make([]*ipc.BidiStreamCall[[]byte, []byte], r.Idle)
	item := make([]byte, r.Size)
	for i := range streams {
		if streams[i], err = bytesEchoed.Open(ctx, w); err != nil {
			return a, err
		}
		suite.PutNumbers(item, uint64(i), ^uint64(i))
		if err := streams[i].Send(ctx, item); err != nil {
			return a, err
		}
		number, _, err := byteReceiver(ctx, &streams[i].Receiver, r.Size)()
		if err != nil {
			return a, err
		}
		if number != uint64(i) {
			return a, fmt.Errorf("%w: stream %d has echoed item %d", suite.ErrGarbled, i, number)
		}
	}
	a.Opening = measure.Now() - opening
	// Let everything that runs on after a start come to rest.
	if _, err := freed(ctx, w); err != nil {
		return a, err
	}
	if err := sleep(ctx, max(r.For/10, 20*time.Millisecond)); err != nil {
		return a, err
	}
	before, err := w.Usage(ctx, suite.UsageRequest{})
	if err != nil {
		return a, err
	}
	host, start := measure.Self(), measure.Now()
	if err := sleep(ctx, r.For); err != nil {
		return a, err
	}
	a.Elapsed, a.Host = measure.Now()-start, measure.Self().Since(host)
	after, err := w.Usage(ctx, suite.UsageRequest{})
	if err != nil {
		return a, err
	}
	a.Worker = after.Since(before)
	// They are all still there.
	for i, st := range streams {
		if err := st.CloseSend(ctx); err != nil {
			return a, fmt.Errorf("stream %d, after it was idle: %w", i, err)
		}
	}
	for i, st := range streams {
		for _, err := range st.All(ctx) {
			return a, fmt.Errorf("stream %d, after it was idle: an item, or %w", i, err)
		}
	}
	return a, nil
}

// freed makes both processes give back what they do not need, and returns what is left.
func freed(ctx context.Context, w *suite.Worker) (rss int64, err error) {
	debug.FreeOSMemory()
	there, err := w.Usage(ctx, suite.UsageRequest{Reset: true})
	return measure.Self().RSS + there.RSS, err
}
