package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// published is the topic of the host.
var published = ipc.NewTopic[[]byte]("bench.published", ipc.WithCodec(ipc.Raw))

// subscribing asks a worker to subscribe so many times. The answer is what each has got when the publisher
// is closed.
var subscribing = ipc.NewMethod[int, []suite.Tally]("bench.subscribing", ipc.WithCodec(ipc.CBOR))

// subscriberProcesses are where subscribers are, if there are as many.
const subscriberProcesses = 4

func registerTopics(s *worker.Server) {
	worker.Handle(s, subscribing, func(ctx context.Context, n int) ([]suite.Tally, error) {
		host := worker.Host(ctx)
		tallies, failed := make([]suite.Tally, n), make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { tallies[i], failed[i] = subscribe(ctx, host) })
		}
		all.Wait()
		return tallies, errors.Join(failed...)
	})
}

// subscribe counts what one subscriber gets. None of it may be lost.
func subscribe(ctx context.Context, host ipc.Caller) (got suite.Tally, err error) {
	sub, err := published.Open(ctx, host)
	if err != nil {
		return got, err
	}
	defer sub.Close()
	for {
		switch record, err := sub.Receive(ctx); err {
		case nil:
			got.Add(record)
		case io.EOF:
			return got, nil
		default:
			return got, err
		}
	}
}

// topicPool keeps the processes of subscribers between cases.
type topicPool map[suite.Way]*topicCrew

// topicCrew are those of one driver. They all can subscribe to what handlers has.
type topicCrew struct {
	suite.Crew
	handlers worker.Handlers
}

// crew returns so many processes.
func (p topicPool) crew(ctx context.Context, way suite.Way, n int) (*topicCrew, error) {
	c := p[way]
	if c == nil {
		c = new(topicCrew)
		p[way] = c
	}
	for len(c.Crew) < n {
		w, err := suite.StartWay(ctx, way, 0, worker.WithHandlers(&c.handlers))
		if err != nil {
			return nil, err
		}
		c.Crew = append(c.Crew, w)
	}
	return c, nil
}

// Close ends them.
func (p topicPool) Close() {
	for way, c := range p {
		if err := c.Crew.Close(); err != nil {
			// What was measured is complete and correct all the same.
			fmt.Fprintf(os.Stderr, "end the subscribers of %v: %v\n", way, err)
		}
	}
}

// publish measures what it takes to publish a record of size bytes when so many subscribers sleep.
func (p topicPool) publish(ctx context.Context, way suite.Way, subscribers, size int, d time.Duration) (s measure.Sample, err error) {
	processes := min(subscribers, subscriberProcesses)
	all, err := p.crew(ctx, way, processes)
	if err != nil {
		return s, err
	}
	crew := all.Crew[:processes]
	pub, err := published.Publisher(&all.handlers)
	if err != nil {
		return s, err
	}
	defer pub.Close()
	var seq uint64
	got := make([][]suite.Tally, len(crew))
	// They subscribe until the publisher is closed, or something has failed.
	subscribed, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	ended := make(chan error, 1)
	go func() {
		ended <- crew.Each(func(i int, w *suite.Worker) (err error) {
			got[i], err = subscribing.Call(subscribed, w, (subscribers+i)/processes)
			if err = w.Blame(err); err != nil {
				giveUp(err)
			}
			return err
		})
	}()
	err = crew.While(subscribed, func(ctx context.Context) error {
		for pub.Stats().Subscribers < subscribers {
			if err := ctx.Err(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		record := make([]byte, size)
		s, err = suite.MeasurePublish(ctx, crew, d, suite.Publishing{
			Size: size,
			Parked: func() bool {
				st := pub.Stats()
				return st.Lag == 0 && st.LagBytes == 0
			},
			Publish: func() error {
				suite.Stamp(record, seq)
				seq++
				return pub.Publish(ctx, record)
			},
		})
		return err
	})
	if err != nil {
		if why := context.Cause(subscribed); why != nil {
			err = why // which says more
		}
		giveUp(err)
		<-ended
		return s, err
	}
	if err := errors.Join(pub.Close(), <-ended); err != nil {
		return s, err
	}
	want := suite.Expect(size, seq)
	for _, tallies := range got {
		for _, t := range tallies {
			if t != want {
				return s, fmt.Errorf("%w: published %v, a subscriber got %v", suite.ErrGarbled, want, t)
			}
		}
	}
	return s, nil
}
