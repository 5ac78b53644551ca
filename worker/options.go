package worker

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

// Option is an option of [Spawn], [Start] and [Attach].
type Option func(*Settings)

// Settings are what options set. Only authors of callers that are made of clients, such
// as package pool, need them: they [Resolve] options, change some settings, and pass
// them on as an [Option].
type Settings struct {
	// Codec is that of methods that choose none.
	Codec ipc.Codec
	// Timeouts bound how long things may take.
	Timeouts drivers.Timeouts
	// Logger gets what nobody would learn otherwise.
	Logger *slog.Logger
	// Restart says how the worker is started again; nil is never.
	Restart *Restart
	// Attempts is how often a request may be sent in all, 0 is once; RetryAll says that
	// this holds for methods that are not idempotent, too.
	Attempts int
	RetryAll bool
	// Events gets what happens to the worker, if it is not nil.
	Events func(Event)
	// Handlers are those for calls of the worker; nil stands for the client's own.
	Handlers *Handlers

	data          any
	hasData       bool
	agreedTimeout time.Duration // what the worker was started with, for an attached one
	maxMessage    int
	resources     drivers.Resources
	checksum      *[sha256.Size]byte
	output        *slog.Logger
	resume        int // bytes; see WithResume
	heartbeat     struct{ interval, timeout time.Duration }
}

func defaultSettings() *Settings {
	return &Settings{Codec: ipc.CBOR, Timeouts: drivers.DefaultTimeouts(), maxMessage: drivers.DefaultMaxMessage, Logger: slog.Default()}
}

// Resolve returns the settings that options come to.
func Resolve(opts ...Option) *Settings { return defaultSettings().apply(opts) }

// Option returns an option that sets all settings to s.
func (s *Settings) Option() Option { return func(each *Settings) { *each = *s } }

// apply applies opts to s, and returns it.
func (s *Settings) apply(opts []Option) *Settings {
	for _, opt := range opts {
		opt(s)
	}
	if s.Attempts > 0 && s.Restart == nil {
		s.Restart = new(Restart)
	}
	return s
}

// mustBeSet panics if an option was given nothing.
func mustBeSet(option string, isNil bool) {
	if isNil {
		panic(fmt.Sprintf("tandem: %s(nil)", option))
	}
}

// mustNotBeNegative panics if an option was given a negative duration.
func mustNotBeNegative(option string, d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("tandem: %s(%v): a negative duration", option, d))
	}
}

// WithCodec sets the codec of methods that do not choose one. It is
// [ipc.CBOR] by default. The worker follows, unless it insists on another with
// [Server.RequireCodec]. It panics for nil, and for [ipc.Fixed], which methods have to
// choose for themselves, since it does not fit all types.
func WithCodec(c ipc.Codec) Option {
	if c == ipc.Fixed {
		panic("tandem: codec fixed is for methods: ipc.NewMethod(name, ipc.WithCodec(ipc.Fixed))")
	}
	mustBeSet("WithCodec", c == nil)
	return func(s *Settings) { s.Codec = c }
}

// WithData passes v, of any type that CBOR can encode, to the worker, which
// finds it with [drivers.StartupData.Data]. Encoded it takes up to about 80 KiB.
func WithData(v any) Option { return func(s *Settings) { s.data, s.hasData = v, true } }

// WithMaxMessage sets the largest message, in bytes, header included, that the
// host sends and accepts: [drivers.DefaultMaxMessage] by default. The sender of a
// larger one gets an [*ipc.SizeError]. A peer can make this side hold one such message
// in addition to its window of 16 MiB of requests and one of notifications. To decode a
// message can take a multiple of its size, by the types of the method, so use small bounds
// with peers that are not trusted.
func WithMaxMessage(bytes int) Option {
	if bytes < drivers.MinMaxMessage || bytes > drivers.MaxMaxMessage {
		panic(fmt.Sprintf("tandem: largest message of %d bytes, allowed are %d to %d", bytes, drivers.MinMaxMessage, drivers.MaxMaxMessage))
	}
	return func(s *Settings) { s.maxMessage = bytes }
}

// WithStartTimeout bounds the time from starting the process to its hello: 10 s
// by default, 0 for no bound. It panics if d is negative.
func WithStartTimeout(d time.Duration) Option {
	mustNotBeNegative("WithStartTimeout", d)
	return func(s *Settings) { s.Timeouts.Start = d }
}

// WithHostTimeout bounds how long the worker waits for a host, at its start and
// after the link was disconnected: 30 s by default, 0 for no bound. It then
// ends. It panics if d is negative.
func WithHostTimeout(d time.Duration) Option {
	mustNotBeNegative("WithHostTimeout", d)
	return func(s *Settings) { s.Timeouts.Host = d }
}

// WithCallTimeout bounds each call: 5 min by default, 0 for no limit. Methods and
// calls can have timeouts of their own: see [ipc.WithTimeout].
func WithCallTimeout(d time.Duration) Option {
	mustNotBeNegative("WithCallTimeout", d)
	return func(s *Settings) { s.Timeouts.Call = d }
}

// WithGrace bounds how long Close, on either side, waits for pending calls to
// finish: 5 s by default, 0 not to wait. It panics if d is negative.
func WithGrace(d time.Duration) Option {
	mustNotBeNegative("WithGrace", d)
	return func(s *Settings) { s.Timeouts.Grace = d }
}

// WithLogger sets where the client writes what nobody would learn otherwise. It is
// [slog.Default] by default. It panics if l is nil.
func WithLogger(l *slog.Logger) Option {
	mustBeSet("WithLogger", l == nil)
	return func(s *Settings) { s.Logger = l }
}

// WithHandlers makes the worker's calls back use h, which several clients can share,
// instead of handlers of the client's own. It panics if h is nil.
func WithHandlers(h *Handlers) Option {
	mustBeSet("WithHandlers", h == nil)
	return func(s *Settings) { s.Handlers = h }
}

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
// With a detached worker, which may outlive its host, this option is an error. It panics
// if l is nil.
func WithOutput(l *slog.Logger) Option {
	mustBeSet("WithOutput", l == nil)
	return func(s *Settings) { s.output = l }
}

// WithChecksum makes the start fail with an [*ipc.ChecksumError], and nothing run,
// unless the SHA-256 of the program's file is sum. On Linux the file that was read
// is the one that runs, even if another takes its path meanwhile; the user has to be
// allowed to read it, and /proc to be mounted. Elsewhere the file is read just before
// the start. Neither helps against somebody who can write to the file itself.
func WithChecksum(sum [sha256.Size]byte) Option {
	return func(s *Settings) { s.checksum = &sum }
}
