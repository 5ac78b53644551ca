package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ring"
)

const (
	kindRing  = "ring"
	ringBytes = 1 << 20
	// ringFile is the descriptor, inherited by the worker, over which the two
	// sides exchange their segments.
	ringFile = 3
)

// What the other side does with a record.
const (
	tagEcho byte = iota + 1
	tagSink
	tagLease
	tagEnd // answers with the tally and starts a new one
)

// ringLink is one side's end of two segments.
type ringLink struct {
	p             *ring.Producer
	c             *ring.Consumer
	local, remote *ring.Segment
}

// newRingLink makes a segment, exchanges it for the other side's, and joins them.
func newRingLink(conn *os.File, wait ring.Wait) (_ *ringLink, err error) {
	l := new(ringLink)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.local, err = ring.Create(ringBytes, ring.Prefault()); err != nil {
		return nil, err
	}
	fd := int(conn.Fd())
	if err := unix.Sendmsg(fd, []byte{1}, unix.UnixRights(int(l.local.File().Fd())), nil, 0); err != nil {
		return nil, os.NewSyscallError("sendmsg", err)
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("the other side has sent no segment")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "segment")
	defer f.Close()
	if l.remote, err = ring.Open(f, ring.Prefault()); err != nil {
		return nil, err
	}
	if l.p, l.c, err = ring.Join(l.local.Bytes(), l.remote.Bytes()); err != nil {
		return nil, err
	}
	l.p.SetWait(wait)
	l.c.SetWait(wait)
	return l, nil
}

func (l *ringLink) close() {
	for _, s := range []*ring.Segment{l.local, l.remote} {
		if s != nil {
			_ = s.Close() // the process ends soon after
		}
	}
}

// next waits for the next record.
func (l *ringLink) next(ctx context.Context) (ring.Record, error) {
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

// startRingEnd starts the worker's side.
func startRingEnd(wait string) error {
	conn := os.NewFile(ringFile, "segments")
	defer conn.Close()
	l, err := newRingLink(conn, suite.WaitOf(wait))
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

func (l *ringLink) serve(ctx context.Context) error {
	var got tally
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
			got.add(r.Data)
		case tagLease:
			got.add(r.Data)
			held[i%2].Release()
			held[i%2] = l.c.Lease()
		case tagEnd:
			held[0].Release()
			held[1].Release()
			err = l.p.Send(ctx, tagEnd, got.bytes(), nil)
			got = tally{}
		default:
			err = fmt.Errorf("record of unknown tag %d", r.Tag)
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) bytes() []byte {
	var b []byte
	for _, x := range []uint64{t.Messages, t.Bytes, t.Sum, t.Bad} {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// rings keeps the workers of the scenario, by way of waiting.
type rings struct {
	mu     sync.Mutex
	byWait map[string]*ringWorker
}

type ringWorker struct {
	*suite.Worker
	*ringLink
}

func startRing(ctx context.Context, wait string) (*ringWorker, error) {
	w, l, err := startEnds(ctx, endRequest{Kind: kindRing, Wait: wait}, func(conn *os.File) (*ringLink, error) {
		return newRingLink(conn, suite.WaitOf(wait))
	})
	return &ringWorker{w, l}, err
}

// startEnds starts a worker and connects its end of a ring or a link with ours, which
// open makes.
func startEnds[T any](ctx context.Context, r endRequest, open func(*os.File) (T, error)) (w *suite.Worker, end T, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, end, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "segments"), os.NewFile(uintptr(pair[1]), "segments")
	defer ours.Close()
	w, err = suite.Start(ctx, strings.TrimSpace(r.Kind+" "+r.Wait), socket.Driver{}, []*os.File{theirs})
	theirs.Close()
	if err != nil {
		return nil, end, err
	}
	// Each side waits for the other's segment, so both have to begin.
	began := make(chan error, 1)
	go func() {
		_, err := runEnd.Call(ctx, w, r)
		began <- w.Blame(err)
	}()
	end, err = open(ours)
	if err == nil {
		err = <-began
	}
	if err != nil {
		return nil, end, errors.Join(w.Blame(err), w.Close())
	}
	return w, end, nil
}

func (w *ringWorker) end() error {
	err := w.Worker.Close()
	w.ringLink.close()
	return err
}

// with is like that of [suite.Pool].
func (r *rings) with(ctx context.Context, wait string, f func(*ringWorker) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.byWait[wait]
	if w == nil {
		var err error
		if w, err = startRing(ctx, wait); err != nil {
			return err
		}
		if wait == "spin" { // its worker would disturb the others
			return errors.Join(f(w), w.end())
		}
		if r.byWait == nil {
			r.byWait = make(map[string]*ringWorker)
		}
		r.byWait[wait] = w
	}
	return f(w)
}

func (r *rings) close() {
	for wait, w := range r.byWait {
		if err := w.end(); err != nil {
			fmt.Fprintf(os.Stderr, "end the worker of ring %s: %v\n", wait, err)
		}
	}
}

func planRings(o *suite.Options) (suite.Plan, error) {
	all := new(rings)
	plan := suite.Plan{Close: all.close}
	if err := ring.Supported(); err != nil {
		return suite.Plan{Skipped: []string{err.Error()}}, nil
	}
	for _, size := range suite.Given(o, o.Sizes, []int{8, 64, 512, 4 << 10, 64 << 10}, []int{8, 64}) {
		if size < 8 || size > ringBytes/2-8 {
			plan.Skipped = append(plan.Skipped, fmt.Sprintf("records of %s: they hold a number of 8 B, and at most half the ring", report.Size(size)))
			continue
		}
		waits := suite.Given(o, o.Waits, callWaits, justOne)
		if o.Wants(ringCopy) {
			var g suite.Group
			for _, wait := range waits {
				g.Cases = append(g.Cases, suite.Case{
					Result: report.Result{Scenario: "ring", Subject: ringCopy, Wait: wait, Bytes: new(size)},
					Run:    all.roundTrips(wait, size),
				})
			}
			plan.Groups = append(plan.Groups, g)
		}
		var g suite.Group
		for _, c := range []struct {
			subject string
			batch   int
		}{{ringCopy, 1}, {ringCopy, 8}, {ringCopy, 32}, {ringCopy, 128}, {ringClaim, 1}, {ringClaim, 32}, {ringLease, 1}} {
			if !o.Wants(c.subject) {
				continue
			}
			wait := waits[0]
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "ring", Subject: c.subject, Wait: wait, Bytes: new(size), Batch: c.batch},
				Run: func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
					err = all.with(ctx, wait, func(w *ringWorker) error {
						if _, err := w.oneWay(ctx, c.subject, size, c.batch, d/10); err != nil { // warm up
							return err
						}
						s, err = w.oneWay(ctx, c.subject, size, c.batch, d)
						return err
					})
					return s, err
				},
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// tripsTogether is how many round trips are timed together.
const tripsTogether = 16

// roundTrips returns what measures them.
func (r *rings) roundTrips(wait string, size int) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (s measure.Sample, err error) {
		err = r.with(ctx, wait, func(w *ringWorker) error {
			s, err = w.roundTrips(ctx, size, d)
			return err
		})
		return s, err
	}
}

func (w *ringWorker) roundTrips(ctx context.Context, size int, d time.Duration) (s measure.Sample, err error) {
	err = w.While(ctx, func(ctx context.Context) error {
		payload := make([]byte, size)
		var seq uint64
		trip := func() error {
			stamp(payload, seq)
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
		s, err = measureTrips(ctx, w.Worker, d, size, trip)
		return err
	})
	return s, err
}

// measureTrips measures round trips of size bytes that trip makes, after a warm-up.
func measureTrips(ctx context.Context, w *suite.Worker, d time.Duration, size int, trip func() error) (measure.Sample, error) {
	run := func(d time.Duration, s *measure.Sample) error {
		s.Latencies = measure.NewHistogram(1)
		err := timeTrips(s, d, tripsTogether, trip)
		s.Bytes = 2 * int64(size) * s.Ops
		return err
	}
	if err := run(min(d/4, 20*time.Millisecond), new(measure.Sample)); err != nil {
		return measure.Sample{}, w.Blame(err)
	}
	return w.Measure(ctx, func(s *measure.Sample) error { return run(d, s) })
}

func (w *ringWorker) oneWay(ctx context.Context, subject string, size, batch int, d time.Duration) (s measure.Sample, err error) {
	tag := tagSink
	if subject == ringLease {
		tag = tagLease
	}
	payload := make([]byte, size)
	// send sends the record number seq and publishes it if last is set.
	send := func(ctx context.Context, seq uint64, last bool) error {
		stamp(payload, seq)
		switch {
		case subject == ringClaim:
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
				for range max(clockEvery/batch, 1) {
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
			if want := expect(size, seq); !bytes.Equal(r.Data, want.bytes()) {
				return fmt.Errorf("%w: sent %v, the other side counted %x", suite.ErrGarbled, want, r.Data)
			}
			s.Ops, s.Bytes = int64(seq), int64(seq)*int64(size)
			return nil
		})
		return err
	})
	return s, err
}
