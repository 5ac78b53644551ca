package rings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

// What the other side does with a record.
const (
	tagEcho byte = iota + 1
	tagSink
	tagLease
	tagEnd // answers with the tally and starts a new one
)

// link is one side's end of two segments.
type link struct {
	*ring.Link
	p *ring.Producer
	c *ring.Consumer
}

// newLink exchanges segments with the other side over conn, which stays the caller's.
func newLink(ctx context.Context, conn *os.File, wait ring.Wait) (*link, error) {
	c, err := net.FileConn(conn)
	if err != nil {
		return nil, err
	}
	l, err := ring.Exchange(ctx, c.(*net.UnixConn), Bytes, ring.Prefault())
	if err != nil {
		return nil, err
	}
	l.Producer.SetWait(wait)
	l.Consumer.SetWait(wait)
	return &link{l, l.Producer, l.Consumer}, nil
}

// next waits for the next record.
func (l *link) next(ctx context.Context) (ring.Record, error) {
	for i := 1; ; i++ {
		r, ok, err := l.c.Next()
		if ok || err != nil {
			return r, err
		}
		if !l.c.Spin() {
			err = l.c.Wait(ctx)
		} else if i%(1<<12) == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return r, err
		}
	}
}

// begin asks a worker to open its end, which waits in the way of this name.
var begin = ipc.NewMethod[string, struct{}]("bench.ring")

// Handle lets a worker be the other end of a ring, and have readers of broadcasts.
func Handle(s *worker.Server) {
	handleBroadcast(s)
	worker.Handle(s, begin, func(ctx context.Context, wait string) (struct{}, error) { return struct{}{}, startEnd(ctx, wait) })
}

// Supported says why there are no rings here.
func Supported() error { return ring.Supported() }

// startEnd starts the worker's side.
func startEnd(ctx context.Context, wait string) error {
	conn := os.NewFile(suite.EndFile, "segments")
	defer conn.Close()
	l, err := newLink(ctx, conn, suite.WaitOf(wait))
	if err != nil {
		return err
	}
	go func() {
		err := l.serve(context.Background())
		fmt.Fprintln(os.Stderr, "ring:", err)
		os.Exit(1) // which the host notices
	}()
	return nil
}

func (l *link) serve(ctx context.Context) error {
	var got suite.Tally
	var held [2]ring.Lease
	for i := 0; ; i++ {
		r, err := l.next(ctx)
		if err != nil {
			return err
		}
		switch r.Tag {
		case tagEcho:
			err = l.p.Send(ctx, tagEcho, r.Data, nil)
		case tagSink:
			got.Add(r.Data)
		case tagLease:
			got.Add(r.Data)
			held[i%2].Release()
			held[i%2] = l.c.Lease()
		case tagEnd:
			held[0].Release()
			held[1].Release()
			err = l.p.Send(ctx, tagEnd, got.Encode(), nil)
			got = suite.Tally{}
		default:
			err = fmt.Errorf("record of unknown tag %d", r.Tag)
		}
		if err != nil {
			return err
		}
	}
}

// Pool keeps workers at the other ends of rings, by way of waiting.
type Pool struct {
	mu     sync.Mutex
	byWait map[string]*process
}

type process struct {
	*suite.Worker
	*link
}

func start(ctx context.Context, wait string) (*process, error) {
	w, l, err := suite.StartEnds(ctx, "ring "+wait, func(ctx context.Context, w *suite.Worker) error {
		_, err := begin.Call(ctx, w, wait)
		return err
	}, func(conn *os.File) (*link, error) {
		return newLink(ctx, conn, suite.WaitOf(wait))
	})
	return &process{w, l}, err
}

func (w *process) end() error {
	err := w.Worker.Close()
	return errors.Join(err, w.link.Close())
}

// with is like that of [suite.Pool].
func (r *Pool) with(ctx context.Context, wait string, f func(*process) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byWait[wait]
	if w == nil {
		var err error
		if w, err = start(ctx, wait); err != nil {
			return err
		}
		if wait == "spin" { // its worker would disturb the others
			return errors.Join(f(w), w.end())
		}
		if r.byWait == nil {
			r.byWait = make(map[string]*process)
		}
		r.byWait[wait] = w
	}
	return f(w)
}

// Close ends all workers.
func (r *Pool) Close() {
	for wait, w := range r.byWait {
		if err := w.end(); err != nil {
			fmt.Fprintf(os.Stderr, "end the worker of ring %s: %v\n", wait, err)
		}
	}
}

// RoundTrips measures records of size bytes that are sent, and sent back, so many between
// two looks at the clock.
func (r *Pool) RoundTrips(ctx context.Context, wait string, size, together int, d time.Duration) (s measure.Sample, err error) {
	err = r.with(ctx, wait, func(w *process) error {
		s, err = w.roundTrips(ctx, size, together, d)
		return err
	})
	return s, err
}

// OneWay measures records of size bytes that go one way, so many published at once, after a
// warm-up. The clock stops when the other side has said that all have arrived.
func (r *Pool) OneWay(ctx context.Context, wait, subject string, size, batch int, d time.Duration) (s measure.Sample, err error) {
	err = r.with(ctx, wait, func(w *process) error {
		if _, err := w.oneWay(ctx, subject, size, batch, d/10); err != nil {
			return err
		}
		s, err = w.oneWay(ctx, subject, size, batch, d)
		return err
	})
	return s, err
}

func (w *process) roundTrips(ctx context.Context, size, together int, d time.Duration) (s measure.Sample, err error) {
	err = w.While(ctx, func(ctx context.Context) error {
		payload := make([]byte, size)
		var seq uint64
		trip := func() error {
			suite.Stamp(payload, seq)
			seq++
			if err := w.p.Send(ctx, tagEcho, payload, nil); err != nil {
				return err
			}
			r, err := w.next(ctx)
			if err != nil {
				return err
			}
			if len(r.Data) != size || !bytes.Equal(r.Data[:8], payload[:8]) || !bytes.Equal(r.Data[size-8:], payload[size-8:]) {
				return fmt.Errorf("%w: record %d of %d bytes came back as %d that differ", suite.ErrGarbled, seq, size, len(r.Data))
			}
			return nil
		}
		s, err = suite.MeasureTrips(ctx, w.Worker, d, size, together, trip)
		return err
	})
	return s, err
}

func (w *process) oneWay(ctx context.Context, subject string, size, batch int, d time.Duration) (s measure.Sample, err error) {
	tag := tagSink
	if subject == Lease {
		tag = tagLease
	}
	payload := make([]byte, size)
	// send sends the record number seq and publishes it if last is set.
	send := func(ctx context.Context, seq uint64, last bool) error {
		suite.Stamp(payload, seq)
		switch {
		case subject == Claim:
			b, err := w.p.TryClaim(size)
			for errors.Is(err, ring.ErrFull) {
				if err = w.p.WaitSpace(ctx, size); err == nil {
					b, err = w.p.TryClaim(size)
				}
			}
			if err != nil {
				return err
			}
			copy(b, payload)
			w.p.Commit(tag, size)
			if last {
				w.p.Publish()
			}
			return nil
		case last:
			return w.p.Send(ctx, tag, payload, nil)
		default:
			return w.p.SendBatched(ctx, tag, payload, nil)
		}
	}
	err = w.While(ctx, func(ctx context.Context) error {
		s, err = w.Measure(ctx, func(s *measure.Sample) error {
			start := measure.Now()
			var seq uint64
			for {
				for range max(suite.ClockEvery/batch, 1) {
					for i := range batch {
						if err := send(ctx, seq, i == batch-1); err != nil {
							return err
						}
						seq++
					}
				}
				if measure.Now()-start >= d {
					break
				}
			}
			if err := w.p.Send(ctx, tagEnd, nil, nil); err != nil {
				return err
			}
			r, err := w.next(ctx)
			if err != nil {
				return err
			}
			s.Busy = measure.Now() - start
			if want := suite.Expect(size, seq); !bytes.Equal(r.Data, want.Encode()) {
				return fmt.Errorf("%w: sent %v, the other side counted %x", suite.ErrGarbled, want, r.Data)
			}
			s.Ops, s.Bytes = int64(seq), int64(seq)*int64(size)
			return nil
		})
		return err
	})
	return s, err
}
