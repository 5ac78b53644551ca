package rings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/broadcast"
	"github.com/tandemipc/tandem/worker"
)

// Broadcast is the way to use a ring that has many readers.
const Broadcast = "broadcast"

// Readers of a broadcast are in so many processes, if there are as many.
const readerProcesses = 4

// Tags of a broadcast's records.
const (
	tagCounted byte = iota + 1
	tagLast         // those before it are all that are counted
)

// joining asks a worker for readers.
type joining struct {
	Segment ipc.File // the writer's
	Readers int
	Wait    string
}

// joined are the segments of the readers.
type joined struct{ Own []ipc.File }

var (
	joinBroadcast = ipc.NewMethod[joining, joined]("bench.broadcast", ipc.WithCodec(ipc.CBOR))
	// broadcastTallies returns what each of the readers has got, when they have got the last record.
	broadcastTallies = ipc.NewMethod[struct{}, []suite.Tally]("bench.broadcast.tallies", ipc.WithCodec(ipc.CBOR))
)

// handleBroadcast lets a worker have readers: those of the last request.
func handleBroadcast(s *worker.Server) {
	var mu sync.Mutex
	var tallies chan suite.Tally
	var readers int
	worker.Handle(s, joinBroadcast, func(_ context.Context, r joining) (joined, error) {
		mu.Lock()
		defer mu.Unlock()
		tallies, readers = make(chan suite.Tally, r.Readers), r.Readers
		return startReaders(r, tallies)
	})
	worker.Handle(s, broadcastTallies, func(ctx context.Context, _ struct{}) (all []suite.Tally, err error) {
		mu.Lock()
		defer mu.Unlock()
		for len(all) < readers {
			select {
			case t := <-tallies:
				all = append(all, t)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return all, nil
	})
}

// startReaders starts readers, which end when the writer removes them.
func startReaders(r joining, tallies chan<- suite.Tally) (j joined, err error) {
	var segments []*broadcast.Segment
	release := func() {
		for _, s := range segments {
			_ = s.Close() // nobody can do anything about it
		}
	}
	defer func() {
		if err != nil {
			release()
			for i := range j.Own {
				j.Own[i].Close()
			}
			j.Own = nil
		}
	}()
	seg, err := broadcast.Open(r.Segment.File(), broadcast.Prefault())
	if err != nil {
		return j, err
	}
	segments = append(segments, seg)
	var readers []*broadcast.Reader
	for range r.Readers {
		own, err := broadcast.CreateReader(broadcast.Prefault())
		if err != nil {
			return j, err
		}
		segments = append(segments, own)
		reader, err := broadcast.NewReader(seg.Bytes(), own.Bytes(), broadcast.Now)
		if err != nil {
			return j, err
		}
		reader.SetWait(suite.WaitOf(r.Wait))
		readers = append(readers, reader)
		file, err := ipc.DuplicateFile(own.File()) // which is closed when it was sent
		if err != nil {
			return j, err
		}
		j.Own = append(j.Own, file)
	}
	var all sync.WaitGroup
	for _, reader := range readers {
		all.Go(func() {
			if err := count(reader, tallies); err != broadcast.ErrCutOff {
				fmt.Fprintln(os.Stderr, "reader of a broadcast:", err)
				os.Exit(1) // which the host notices
			}
		})
	}
	go func() {
		all.Wait()
		release()
	}()
	return j, nil
}

// count tells what a reader gets up to each last record, until it cannot go on.
func count(r *broadcast.Reader, tallies chan<- suite.Tally) error {
	var got suite.Tally
	for {
		rec, ok, err := r.Next()
		switch {
		case err != nil:
			return err
		case !ok:
			if err := r.Wait(context.Background()); err != nil {
				return err
			}
		case rec.Lost > 0:
			return fmt.Errorf("%w: %d records before record %d are lost", suite.ErrGarbled, rec.Lost, rec.Sequence)
		case rec.Tag == tagLast:
			tallies <- got
			got = suite.Tally{}
		default:
			got.Add(rec.Data)
		}
	}
}

// Broadcasts keeps the processes of readers between cases.
type Broadcasts struct {
	mu   sync.Mutex
	crew suite.Crew
}

// Close ends them.
func (b *Broadcasts) Close() {
	if err := b.crew.Close(); err != nil {
		// What was measured is complete and correct all the same.
		fmt.Fprintln(os.Stderr, "end the readers of broadcasts:", err)
	}
}

// fan is a writer in this process and its readers in others, all of them reliable.
type fan struct {
	suite.Crew
	w     *broadcast.Writer
	peers []*broadcast.Peer
	owns  []*broadcast.Segment
	seg   *broadcast.Segment
}

// with calls f with a writer of a new segment, and with so many readers that wait in that way.
func (b *Broadcasts) with(ctx context.Context, wait string, readers int, f func(context.Context, *fan) error) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	processes := min(readers, readerProcesses)
	for len(b.crew) < processes {
		w, err := suite.Start(ctx, "readers", socket.Driver{}, nil)
		if err != nil {
			return err
		}
		b.crew = append(b.crew, w)
	}
	seg, err := broadcast.Create(Bytes, broadcast.Prefault())
	if err != nil {
		return err
	}
	w, err := broadcast.NewWriter(seg.Bytes())
	if err != nil {
		return errors.Join(err, seg.Close())
	}
	w.SetWait(suite.WaitOf(wait))
	n := &fan{Crew: b.crew[:processes], w: w, seg: seg}
	defer func() { err = errors.Join(err, n.close()) }()
	for i, worker := range n.Crew {
		// As even as they can be.
		if err := n.join(ctx, worker, wait, (readers+i)/processes); err != nil {
			return worker.Blame(err)
		}
	}
	return n.While(ctx, func(ctx context.Context) error { return f(ctx, n) })
}

// join adds readers in one process.
func (n *fan) join(ctx context.Context, w *suite.Worker, wait string, readers int) error {
	j, err := joinBroadcast.Call(ctx, w, joining{ipc.NewFile(n.seg.File()), readers, wait})
	if err != nil {
		return err
	}
	for i := range j.Own {
		defer j.Own[i].Close()
	}
	for i := range j.Own {
		own, err := broadcast.OpenReader(j.Own[i].File(), broadcast.Prefault())
		if err != nil {
			return err
		}
		n.owns = append(n.owns, own)
		p, err := n.w.Add(own.Bytes(), broadcast.Reliable(0))
		if err != nil {
			return err
		}
		n.peers = append(n.peers, p)
	}
	return nil
}

// close ends the readers and the writer.
func (n *fan) close() (err error) {
	for _, p := range n.peers {
		p.Remove()
	}
	n.w.Close()
	for _, s := range n.owns {
		err = errors.Join(err, s.Close())
	}
	return errors.Join(err, n.seg.Close())
}

// send sends the record number seq, and publishes it if last is set.
func (n *fan) send(ctx context.Context, payload []byte, seq uint64, last bool) error {
	suite.Stamp(payload, seq)
	if last {
		return n.w.Send(ctx, tagCounted, payload)
	}
	return n.w.SendBatched(ctx, tagCounted, payload)
}

// arrived returns when all readers have got the records 0 to seq-1, of size bytes.
func (n *fan) arrived(ctx context.Context, size int, seq uint64) error {
	if err := n.w.Send(ctx, tagLast, nil); err != nil {
		return err
	}
	want := suite.Expect(size, seq)
	return n.Each(func(_ int, w *suite.Worker) error {
		got, err := broadcastTallies.Call(ctx, w, struct{}{})
		if err != nil {
			return err
		}
		for _, t := range got {
			if t != want {
				return fmt.Errorf("%w: sent %v, a reader got %v", suite.ErrGarbled, want, t)
			}
		}
		return nil
	})
}

// OneWay measures records of size bytes that go to all readers, so many published at once, after
// a warm-up. The clock stops when all readers have got all of them.
func (b *Broadcasts) OneWay(ctx context.Context, wait string, readers, size, batch int, d time.Duration) (s measure.Sample, err error) {
	err = b.with(ctx, wait, readers, func(ctx context.Context, n *fan) error {
		if _, err := n.oneWay(ctx, size, batch, d/10); err != nil {
			return err
		}
		s, err = n.oneWay(ctx, size, batch, d)
		return err
	})
	return s, err
}

func (n *fan) oneWay(ctx context.Context, size, batch int, d time.Duration) (measure.Sample, error) {
	payload := make([]byte, size)
	return n.Measure(ctx, func(s *measure.Sample) error {
		start := measure.Now()
		var seq uint64
		for seq == 0 || measure.Now()-start < d {
			for range max(suite.ClockEvery/batch, 1) {
				for i := range batch {
					if err := n.send(ctx, payload, seq, i == batch-1); err != nil {
						return err
					}
					seq++
				}
			}
		}
		if err := n.arrived(ctx, size, seq); err != nil {
			return err
		}
		s.Busy = measure.Now() - start
		s.Ops, s.Bytes = int64(seq), int64(seq)*int64(size)
		return nil
	})
}

// Publish measures what it takes to publish one record of size bytes when all readers are parked.
func (b *Broadcasts) Publish(ctx context.Context, readers, size int, d time.Duration) (s measure.Sample, err error) {
	err = b.with(ctx, "park", readers, func(ctx context.Context, n *fan) error {
		payload := make([]byte, size)
		var seq uint64
		s, err = suite.MeasurePublish(ctx, n, d, suite.Publishing{
			Size:   size,
			Parked: n.parked,
			Publish: func() error {
				seq++
				return n.send(ctx, payload, seq-1, true)
			},
		})
		if err != nil {
			return err
		}
		return n.arrived(ctx, size, seq)
	})
	return s, err
}

// parked reports whether all readers have read all, as they say when they park.
func (n *fan) parked() bool {
	for _, p := range n.peers {
		if p.Lag() > 0 {
			return false
		}
	}
	return true
}
