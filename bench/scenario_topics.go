package main

import (
	"context"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/rings"
	"github.com/tandemipc/tandem/bench/internal/suite"
)

// The scenario topics and its mode.
const (
	topicsName = "topics"
	publishing = "publish"
)

// topicSize is the size of all records.
const topicSize = 64

// busyReaders read all the time, parkedReaders sleep.
var (
	busyReaders   = []int{1, 4, 16}
	parkedReaders = []int{0, 1, 8, 64}
)

// topicsScenario measures one to many: the ring that has many readers, and topics.
func topicsScenario() suite.Scenario {
	return suite.Scenario{
		Name:     topicsName,
		Title:    "one to many: the ring with many readers, and what Publish of a topic costs",
		Subjects: append([]string{rings.Copy, rings.Broadcast}, suite.Drivers...),
		About: `Records of 64 bytes, numbered, and the numbers checked by each reader. Rows with a batch go one way from one process to so ` +
			`many readers, which are in as many others, at most 4: broadcast beside ring, which has one reader; each of 1 MiB. All readers are reliable: the writer waits ` +
			`for the slowest, and the clock stops when all have said that all have arrived. A reader of broadcast copies each record out, that of ring looks at it where it lies. ` +
			`Rows with p50 are one publish at a time, each timed by itself with a reading of the clock in it, when all readers have got everything and 1 ms has passed since, so that they sleep: of broadcast, whose readers ` +
			`park at once, and Publish of a topic, whose records all subscribers read in shared memory (shm) or have sent to each (socket). What wakes and sends after ` +
			`publish has returned is not in its time, but in allocations and processor time, which are of the publisher and of all subscribers.`,
		Plan: planTopics,
	}
}

func topicResult(subject, mode, wait string, readers, batch int) report.Result {
	r := report.Result{Scenario: topicsName, Subject: subject, Mode: mode, Wait: wait, Bytes: new(topicSize), Callers: readers, Batch: batch}
	if subject != rings.Copy && subject != rings.Broadcast {
		r.Codec = "raw"
	}
	return r
}

func planTopics(o *suite.Options) (suite.Plan, error) {
	bare, broadcasts, topics := new(rings.Pool), new(rings.Broadcasts), make(topicPool)
	plan := suite.Plan{Close: func() {
		bare.Close()
		broadcasts.Close()
		topics.Close()
	}}
	if err := rings.Supported(); err != nil {
		plan.Skipped = []string{err.Error()}
	} else {
		for _, batch := range []int{1, 32} {
			plan.Groups = append(plan.Groups, fanOuts(o, bare, broadcasts, batch))
		}
		plan.Groups = append(plan.Groups, parkedBroadcasts(o, broadcasts))
	}
	for _, way := range suite.Ways(o, justOne, justOne) {
		var g suite.Group
		for _, n := range suite.Given(o, o.Callers, parkedReaders, parkedReaders) {
			g.Cases = append(g.Cases, suite.Case{
				Result:   topicResult(way.Subject, publishing, way.Wait, n, 0),
				Duration: parkedTime(o),
				Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
					return topics.publish(ctx, way, n, topicSize, d)
				},
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// parkedTime is longer than that of others, since there is little to measure between the pauses.
func parkedTime(o *suite.Options) time.Duration {
	if o.Quick {
		return o.Duration
	}
	return 3 * o.Duration
}

// fanOuts has records one way, beside those of a ring with one reader.
func fanOuts(o *suite.Options, bare *rings.Pool, broadcasts *rings.Broadcasts, batch int) (g suite.Group) {
	if o.Wants(rings.Copy) {
		g.Cases = append(g.Cases, suite.Case{
			Result: topicResult(rings.Copy, "", adaptive, 1, batch),
			Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return bare.OneWay(ctx, adaptive, rings.Copy, topicSize, batch, d)
			},
		})
	}
	if !o.Wants(rings.Broadcast) {
		return g
	}
	for _, n := range suite.Given(o, o.Callers, busyReaders, busyReaders) {
		g.Cases = append(g.Cases, suite.Case{
			Result: topicResult(rings.Broadcast, "", adaptive, n, batch),
			Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return broadcasts.OneWay(ctx, adaptive, n, topicSize, batch, d)
			},
		})
	}
	return g
}

// parkedBroadcasts has what it costs to publish to readers that sleep, beside none.
func parkedBroadcasts(o *suite.Options, broadcasts *rings.Broadcasts) (g suite.Group) {
	if !o.Wants(rings.Broadcast) {
		return g
	}
	for _, n := range suite.Given(o, o.Callers, parkedReaders, parkedReaders) {
		g.Cases = append(g.Cases, suite.Case{
			Result:   topicResult(rings.Broadcast, publishing, "park", n, 0),
			Duration: parkedTime(o),
			Run: func(ctx context.Context, d time.Duration) (measure.Sample, error) {
				return broadcasts.Publish(ctx, n, topicSize, d)
			},
		})
	}
	return g
}
