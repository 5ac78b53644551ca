package ipc

import (
	"fmt"
	"time"
)

// What a publisher keeps unless it is told otherwise.
const (
	defaultKeep      = 1024
	defaultKeepBytes = 4 << 20
	maxKeep          = 1 << 24
	minKeepBytes     = 4 << 10
	maxKeepBytes     = 1 << 30
)

// PublisherOption is an option of [Topic.Publisher].
type PublisherOption func(*publisherOptions)

type publisherOptions struct {
	keep, keepBytes int
	cutOff          time.Duration // 0: no reliable subscribers
	streamsOnly     bool
}

// Keep makes a publisher keep the last n records, 1024 if it is not told otherwise: for subscribers
// that are slow, and for those that begin [FromOldest]. [KeepBytes] may bound it further. Keep
// panics if n is not in 1 to 16 Mi.
func Keep(n int) PublisherOption {
	if n < 1 || n > maxKeep {
		panic(fmt.Sprintf("tandem: Keep(%d): allowed are 1 to %d", n, maxKeep))
	}
	return func(o *publisherOptions) { o.keep = n }
}

// KeepBytes bounds how many bytes the records have in all that a publisher keeps, encoded: 4 MiB if
// it is not told otherwise. The largest record is half of that, less 16 bytes. Subscribers that
// share memory have a ring of this size, or the next power of two. KeepBytes panics if n is not in
// 4 KiB to 1 GiB.
func KeepBytes(n int) PublisherOption {
	if n < minKeepBytes || n > maxKeepBytes {
		panic(fmt.Sprintf("tandem: KeepBytes(%d): allowed are %d to %d", n, minKeepBytes, maxKeepBytes))
	}
	return func(o *publisherOptions) { o.keepBytes = n }
}

// WithoutSharedMemory makes a publisher send each subscriber a stream, also where they could share
// memory. It is for subscribers that are better kept apart from what they do not receive, and for measurements.
func WithoutSharedMemory() PublisherOption {
	return func(o *publisherOptions) { o.streamsOnly = true }
}

// CutOffAfter makes a publisher take [Reliable] subscribers. When the next record would take the
// place of one that such a subscriber has not got, Publish waits for it: d at most, or until its
// context ends. After d it cuts off all that it is waiting for, and goes on. Without CutOffAfter
// reliable subscribers are refused, and Publish never waits. CutOffAfter panics if d is not
// positive.
func CutOffAfter(d time.Duration) PublisherOption {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: CutOffAfter(%v): need a positive duration", d))
	}
	return func(o *publisherOptions) { o.cutOff = d }
}

// SubscribeOption is an option of [Topic.Subscribe] and [Topic.Open].
type SubscribeOption interface{ applySubscribe(*subscribeOptions) }

type subscribeOptions struct {
	request topicRequest
	call    []CallOption
}

type fromOption topicStart

func (f fromOption) applySubscribe(o *subscribeOptions) { o.request.start = topicStart(f) }

// FromOldest begins with the oldest record that the publisher still has, rather than with the next one that
// is published: see [Keep]. What was published before that is not told as lost.
func FromOldest() SubscribeOption { return fromOption(fromOldest) }

// FromLatest begins with the latest record of each key, in the order in which they were published,
// and goes on with what is published after that: nothing is missing between the two, and nothing
// comes twice. The topic has to be declared with [LatestBy].
func FromLatest() SubscribeOption { return fromOption(fromLatest) }

type reliableOption struct{}

func (reliableOption) applySubscribe(o *subscribeOptions) { o.request.reliable = true }

// Reliable makes the publisher wait for this subscriber rather than go on without it, so that it loses
// nothing. It is for publishers with [CutOffAfter]; others refuse it with CodeFailedPrecondition. A
// subscriber that takes too long is cut off: its sequence ends with [ErrCutOff].
func Reliable() SubscribeOption { return reliableOption{} }

func (m metadataOption) applySubscribe(o *subscribeOptions) { o.call = append(o.call, m) }
