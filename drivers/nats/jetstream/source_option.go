package jetipc

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/tandemipc/tandem/ipc"
)

// SourceOption is an option of [NewSource].
type SourceOption func(*sourceOptions)

type sourceOptions struct {
	codec      ipc.Codec
	ahead      int
	aheadBytes int
	drain      bool
	poison     func(context.Context, *nats.Msg, error) error
}

// Decode sets the codec of a source's records. The default is [ipc.CBOR]. With [ipc.Raw] the records are the bytes of the
// messages, whoever has published them.
func Decode(c ipc.Codec) SourceOption { return func(o *sourceOptions) { o.codec = c } }

// Ahead bounds the messages that a run has fetched and its pipeline has not taken: 256, and 4 MiB, if
// it is not told otherwise. The bytes may be exceeded by what the server sends at a time, its max_payload and 64 KiB.
// What a slow process has fetched no other one gets, so the bounds should be small where records take long.
// Ahead panics if one of them is not positive.
func Ahead(messages, bytes int) SourceOption {
	if messages < 1 || bytes < 1 {
		panic(fmt.Sprintf("tandem: jetstream: Ahead(%d, %d)", messages, bytes))
	}
	return func(o *sourceOptions) { o.ahead, o.aheadBytes = messages, bytes }
}

// Drain makes the records of a run end when all messages are acknowledged that were in the stream when it began, and
// that the consumer wants, by this process or by others. It may take some that came later, and leave some of these until AckWait is over. If another process has
// some of them, and dies, they come to this one, so it waits for that. Without Drain a source goes on until its context ends.
func Drain() SourceOption { return func(o *sourceOptions) { o.drain = true } }

// Poison sets what takes messages that cannot be decoded. When f has returned nil the message does not come again. It
// is called at least once for a message, by one goroutine of each run. Without Poison such a message ends
// the pipeline, as an error of f does, and comes again in the next run. Records that the stages fail with are
// those of [pipeline.OnError] and [pipeline.DeadLetter].
func Poison(f func(ctx context.Context, m *nats.Msg, why error) error) SourceOption {
	return func(o *sourceOptions) { o.poison = f }
}
