package worker

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Option is an option of [Spawn].
type Option func(*options)

type options struct {
	codec      ipc.Codec
	data       any
	hasData    bool
	timeouts   drivers.Timeouts
	maxMessage int
	log        *slog.Logger
	resources  drivers.Resources
	checksum   *[sha256.Size]byte
	output     *slog.Logger
	resume     int // bytes; see WithResume

	restart   *Restart // nil: never
	attempts  int      // of a call; 0: 1
	retryAll  bool
	heartbeat struct{ interval, limit time.Duration }
	events    func(Event)
	handlers  *registry // of a pool; nil: the client's own
}

func defaultOptions() *options {
	return &options{codec: ipc.CBOR, timeouts: drivers.DefaultTimeouts(), maxMessage: drivers.DefaultMaxMessage, log: slog.Default()}
}

// with applies opts to o, and returns it.
func (o *options) with(opts []Option) *options {
	for _, opt := range opts {
		opt(o)
	}
	if o.attempts > 0 && o.restart == nil {
		o.restart = new(Restart)
	}
	return o
}

// WithCodec sets the codec of methods that do not choose one. It is
// [ipc.CBOR] by default. The worker follows, unless it insists on another with
// [Server.RequireCodec]. It panics for [ipc.Fixed], which methods have to choose for
// themselves, since it does not fit all types.
func WithCodec(c ipc.Codec) Option {
	if c == ipc.Fixed {
		panic("tandem: codec fixed is for methods: ipc.NewMethod(name, ipc.WithCodec(ipc.Fixed))")
	}
	return func(o *options) { o.codec = c }
}

// WithData passes v, of any type that CBOR can encode, to the worker, which
// finds it with [drivers.StartupData.Data]. Encoded it takes up to about 80 KiB.
func WithData(v any) Option { return func(o *options) { o.data, o.hasData = v, true } }

// WithMaxMessage sets the largest message, in bytes, header included, that the
// host sends and accepts: [drivers.DefaultMaxMessage] by default. The sender of a
// larger one gets an [*ipc.SizeError]. It is also the most memory that a
// hostile peer can make this side allocate for one message.
func WithMaxMessage(bytes int) Option {
	if bytes < drivers.MinMaxMessage {
		panic(fmt.Sprintf("tandem: largest message of %d bytes, need at least %d", bytes, drivers.MinMaxMessage))
	}
	return func(o *options) { o.maxMessage = bytes }
}

// WithStartTimeout bounds the time from starting the process to its hello: 10 s
// by default, 0 for no limit.
func WithStartTimeout(d time.Duration) Option { return func(o *options) { o.timeouts.Start = d } }

// WithHostTimeout bounds how long the worker waits for a host, at its start and
// after the link was disconnected: 30 s by default, 0 for no limit. It then ends.
func WithHostTimeout(d time.Duration) Option { return func(o *options) { o.timeouts.Host = d } }

// WithCallTimeout bounds each call: 5 min by default, 0 for no limit. Methods and
// calls can have limits of their own: see [ipc.WithTimeout].
func WithCallTimeout(d time.Duration) Option { return func(o *options) { o.timeouts.Call = d } }

// WithGrace bounds how long Close, on either side, waits for pending calls to
// finish: 5 s by default, 0 not to wait.
func WithGrace(d time.Duration) Option { return func(o *options) { o.timeouts.Grace = d } }

// WithLogger sets where the host writes what nobody would learn otherwise. It
// is [slog.Default] by default.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithOutput sends what the worker writes to stdout and stderr to l, line by line,
// with the attributes pid and stream ("stdout" or "stderr"). It serves those of the
// two that the command leaves nil. Close returns when the last line, ended or not,
// was logged, unless the logger is slow.
//
// A line that a [slog.JSONHandler] of the worker has written keeps its time, level,
// message and attributes; attributes pid and stream of its own that say the same
// are not repeated. Any other line is a message of [slog.LevelInfo], on either
// stream. Empty lines are left out. A line longer than 64 KiB is cut into pieces of
// that size, each a message.
//
// The worker never waits for the logger: lines of up to 1 MiB together may wait for
// it, what comes beyond that is dropped, and the number of dropped lines is logged.
//
// With a detached worker, which may outlive its host, this option is an error.
func WithOutput(l *slog.Logger) Option {
	if l == nil {
		panic("tandem: WithOutput of no logger")
	}
	return func(o *options) { o.output = l }
}

// WithChecksum makes the start fail with an [*ipc.ChecksumError], and nothing run,
// unless the SHA-256 of the program's file is sum. On Linux the file that was read
// is the one that runs, even if another takes its path meanwhile; the user has to be
// allowed to read it, and /proc to be mounted. Elsewhere the file is read just before
// the start. Neither helps against somebody who can write to the file itself.
func WithChecksum(sum [sha256.Size]byte) Option {
	return func(o *options) { o.checksum = &sum }
}
