package jetipc

import (
	"context"
	"errors"
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/tandemipc/tandem/ipc"
)

// SourceOption is an option of [NewSource].
type SourceOption func(*sourceOptions)

type sourceOptions struct {
	codec      ipc.Codec
	ahead      int
	aheadBytes int
	caughtUp   bool
	deliveries uint64
	poison     func(context.Context, natsjs.Msg, error) error
}

// Decode sets the codec of a source's records. The default is [ipc.CBOR]. With [ipc.Raw] the records are the bytes of the
// messages, whoever has published them.
func Decode(c ipc.Codec) SourceOption { return func(o *sourceOptions) { o.codec = c } }

// Ahead bounds the messages that a source has fetched and the pipeline has not taken: 256, and 1 MiB, if
// it is not told otherwise. A message may be larger; then there is one. What a slow process has fetched
// no other one gets, so the bounds should be small where records take long. Ahead panics if one of them is not positive.
func Ahead(messages, bytes int) SourceOption {
	if messages < 1 || bytes < 1 {
		panic(fmt.Sprintf("tandem: jetstream: Ahead(%d, %d)", messages, bytes))
	}
	return func(o *sourceOptions) { o.ahead, o.aheadBytes = messages, bytes }
}

// UntilCaughtUp makes the records end when there are none left: the consumer has delivered all messages of its
// stream, and none is in the hands of another process, which may die. Without it a source goes on until its context ends.
func UntilCaughtUp() SourceOption { return func(o *sourceOptions) { o.caughtUp = true } }

// ErrDeliveries is why a message is poison that was delivered too often: see [Deliveries].
var ErrDeliveries = errors.New("tandem: jetstream: the message was delivered too often")

// Deliveries makes a message poison ([Poison]) that was delivered more than n times, with [ErrDeliveries]: it may be one that
// ends whole processes, which no stage can see. All that ends a run, and a lost connection, make deliveries, too, so n should not
// be small. Deliveries panics if n is less than 1.
func Deliveries(n int) SourceOption {
	if n < 1 {
		panic(fmt.Sprintf("tandem: jetstream: Deliveries(%d)", n))
	}
	return func(o *sourceOptions) { o.deliveries = uint64(n) }
}

// Poison sets what takes messages that are no records: that cannot be decoded, or were delivered too often. When f has
// returned nil the message does not come again. It is called at least once, by one goroutine of each run. Without Poison such a message ends
// the pipeline, as an error of f does, and comes again in the next run. Records that the stages fail with are
// those of [pipeline.OnError] and [pipeline.DeadLetter]; [DeadLetters] puts them on a subject.
func Poison(f func(ctx context.Context, m natsjs.Msg, why error) error) SourceOption {
	return func(o *sourceOptions) { o.poison = f }
}
