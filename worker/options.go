package worker

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker/internal/memory"
)

// Option is an option of [Spawn], [Start] and [Attach], and, where it says nothing of processes, of [Dial] and
// [Server.ServeListener].
type Option func(*Settings)

// Settings are what options set. Only authors of callers that consist of clients need
// them, as package pool does: it calls [Resolve], changes some settings, and passes them
// on with [Settings.Option].
type Settings struct {
	// Codec is the codec of methods that do not choose one.
	Codec ipc.Codec
	// Timeouts bound how long things may take.
	Timeouts drivers.Timeouts
	// Logger is that of [WithLogger].
	Logger *slog.Logger
	// Restart says how the worker is started again; nil means never.
	Restart *Restart
	// Attempts is how often a request may be sent in all; 0 means once. RetryAll says
	// that this also holds for methods that are not idempotent.
	Attempts int
	RetryAll bool
	// Events is the function of [WithEvents], or nil.
	Events func(Event)
	// Handlers answer the worker's calls; nil stands for the client's own.
	Handlers *Handlers
	// Interceptors are those of [WithInterceptors].
	Interceptors []ipc.Interceptor
	// Arena is that of [WithArena]; nil stands for the client's own.
	Arena *ipc.Arena
	// Memory is that of a pool; nil stands for the client's own.
	Memory *memory.Keeper

	data           any
	hasData        bool
	impliedRestart bool          // by WithRetry
	agreedTimeout  time.Duration // what the worker was started with, for an attached one
	maxMessage     int
	window         int
	streamWindow   int
	resources      drivers.Resources
	checksum       *[sha256.Size]byte
	output         *slog.Logger
	resume         int // bytes; see WithResume
	peerCheck      func(drivers.Credentials) error
	reconnect      *Reconnect
	heartbeat      struct{ interval, timeout time.Duration }
}

func defaultSettings() *Settings {
	return &Settings{Codec: ipc.CBOR, Timeouts: drivers.DefaultTimeouts(), maxMessage: drivers.DefaultMaxMessage, window: drivers.DefaultWindow, Logger: slog.Default()}
}

// Resolve returns the settings that opts lead to, defaults included.
func Resolve(opts ...Option) *Settings { return defaultSettings().apply(opts) }

// Option returns an option that replaces all settings by s.
func (s *Settings) Option() Option { return func(each *Settings) { *each = *s } }

// apply applies opts to s, and returns it.
func (s *Settings) apply(opts []Option) *Settings {
	for _, opt := range opts {
		opt(s)
	}
	if s.Attempts > 0 && s.Restart == nil {
		s.Restart = new(Restart)
		s.impliedRestart = true
	}
	return s
}

// givenOption says whether an option was given.
type givenOption struct {
	name  string
	given bool
}

// refuseOptions returns an error for each of the options that was given. format says why not,
// with the option's name.
func refuseOptions(format string, options []givenOption) error {
	var errs []error
	for _, o := range options {
		if o.given {
			errs = append(errs, fmt.Errorf("tandem: "+format, o.name))
		}
	}
	return errors.Join(errs...)
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

// WithCodec sets the codec of methods that do not choose one; the default is [ipc.CBOR].
// The worker uses the same codec, unless it demands another with [Server.RequireCodec].
// WithCodec panics for nil, and for [ipc.Fixed], which does not fit all types: methods
// choose that one with [ipc.WithCodec].
func WithCodec(c ipc.Codec) Option {
	if c == ipc.Fixed {
		panic("tandem: codec fixed is for methods: ipc.NewMethod(name, ipc.WithCodec(ipc.Fixed))")
	}
	mustBeSet("WithCodec", c == nil)
	return func(s *Settings) { s.Codec = c }
}

// WithData passes v to the worker, which reads it with drivers.Startup().Data: see
// [drivers.StartupData.Data]. v may be of any type that CBOR can encode, in up to about
// 80 KiB.
func WithData(v any) Option { return func(s *Settings) { s.data, s.hasData = v, true } }

// WithMaxMessage sets the size of the largest message, in bytes, header included, that
// both sides send and accept; the default is [drivers.DefaultMaxMessage], 64 MiB. The
// sender of a larger one gets an [*ipc.SizeError]. What decoding a message may take beside
// that has a bound of its own: see [ipc.WithMaxDecoded]. Choose small bounds for peers that
// are not trusted. WithMaxMessage panics if bytes is less than [drivers.MinMaxMessage] or
// more than [drivers.MaxMaxMessage].
func WithMaxMessage(bytes int) Option {
	if bytes < drivers.MinMaxMessage || bytes > drivers.MaxMaxMessage {
		panic(fmt.Sprintf("tandem: largest message of %d bytes, allowed are %d to %d", bytes, drivers.MinMaxMessage, drivers.MaxMaxMessage))
	}
	return func(s *Settings) { s.maxMessage = bytes }
}

// WithWindow sets how many bytes of requests, and as many of notifications, each side of
// the link takes that it has not finished with; the default is [drivers.DefaultWindow], 16
// MiB. A request counts for its payload and 2 KiB, a notification for its payload and 256
// bytes. So at most 8192 requests of one side run or wait at a time on the other, unless
// the window is larger. A sender that has used the window up waits, within its context and
// timeout, until the receiver has finished with a part.
//
// So the most that a peer can make this side hold is two windows, and beyond each of them
// one frame of the largest size ([WithMaxMessage]), besides the answers that this side
// waits for. WithWindow panics if bytes is less than [drivers.MinWindow] or more than
// [drivers.MaxWindow].
func WithWindow(bytes int) Option {
	if bytes < drivers.MinWindow || bytes > drivers.MaxWindow {
		panic(fmt.Sprintf("tandem: window of %d bytes, allowed are %d to %d", bytes, drivers.MinWindow, drivers.MaxWindow))
	}
	return func(s *Settings) { s.window = bytes }
}

// WithStreamWindow sets how many bytes of items each side takes of a stream that its reader has
// not read; the default is [drivers.DefaultStreamWindow], 1 MiB. An item counts for its
// size, rounded up to a multiple of 8, and 8 bytes. Each stream begins with
// [drivers.InitialStreamWindow], 8 KiB, and grows while its reader reads. What all streams of
// a link have beyond that is bounded by the window of the link ([WithWindow]). So a stream
// may stay smaller where there are many.
//
// A sender that has used the window up waits, and holds up nobody else. WithStreamWindow
// panics if bytes is less than drivers.InitialStreamWindow or more than
// [drivers.MaxStreamWindow].
func WithStreamWindow(bytes int) Option {
	if bytes < drivers.InitialStreamWindow || bytes > drivers.MaxStreamWindow {
		panic(fmt.Sprintf("tandem: stream window of %d bytes, allowed are %d to %d", bytes, drivers.InitialStreamWindow, drivers.MaxStreamWindow))
	}
	return func(s *Settings) { s.streamWindow = bytes }
}

// WithStartTimeout bounds the time from the start of the process until the worker is
// ready. The default is 10 s; 0 means no timeout. It panics if d is negative.
func WithStartTimeout(d time.Duration) Option {
	mustNotBeNegative("WithStartTimeout", d)
	return func(s *Settings) { s.Timeouts.Start = d }
}

// WithHostTimeout bounds how long the worker waits for a host, at its start and after a
// disconnection; then the worker ends. The default is 30 s; 0 means no timeout. For a
// detached worker, socket.Driver.HostTimeout takes its place. It panics if d is negative.
func WithHostTimeout(d time.Duration) Option {
	mustNotBeNegative("WithHostTimeout", d)
	return func(s *Settings) { s.Timeouts.Host = d }
}

// WithCallTimeout bounds how long each call may take, with all that it waits for. The
// default is 5 minutes; 0 means no timeout. Methods and calls can have timeouts of their
// own: see [ipc.WithTimeout]. The calls that the worker makes to its host have the same
// default. WithCallTimeout panics if d is negative.
func WithCallTimeout(d time.Duration) Option {
	mustNotBeNegative("WithCallTimeout", d)
	return func(s *Settings) { s.Timeouts.Call = d }
}

// WithGrace bounds how long [Client.Close] and [Server.Serve] wait for pending calls
// before they give them up. The default is 5 s; 0 means that they do not wait. It panics
// if d is negative.
func WithGrace(d time.Duration) Option {
	mustNotBeNegative("WithGrace", d)
	return func(s *Settings) { s.Timeouts.Grace = d }
}

// WithLogger sets the logger for what happens on the host's side and no error reports,
// such as notifications that no handler gets. The default is [slog.Default]. It panics if
// l is nil.
func WithLogger(l *slog.Logger) Option {
	mustBeSet("WithLogger", l == nil)
	return func(s *Settings) { s.Logger = l }
}

// WithHandlers makes the handlers in h, which several clients can share, answer the
// worker's calls, instead of the client's own. It panics if h is nil.
func WithHandlers(h *Handlers) Option {
	mustBeSet("WithHandlers", h == nil)
	return func(s *Settings) { s.Handlers = h }
}

// WithOutput sends what the worker writes to stdout and stderr to l, line by line, with
// the attributes pid and stream ("stdout" or "stderr"). It takes only those of the two
// that the command leaves nil. When Close returns, the last line was logged, even if it
// has no end, unless the logger is slow.
//
// If a [slog.JSONHandler] of the worker wrote a line, the record keeps its time, level,
// message and attributes; its attributes pid and stream are not repeated if they say the
// same. Any other line becomes a message of [slog.LevelInfo]. Empty lines are left out.
// A line longer than 64 KiB becomes several messages.
//
// The worker never waits for the logger. Up to 1 MiB of lines wait for it; more are
// dropped, and their number is logged.
//
// This option is an error with a detached worker, since that may outlive its host. It
// panics if l is nil.
func WithOutput(l *slog.Logger) Option {
	mustBeSet("WithOutput", l == nil)
	return func(s *Settings) { s.output = l }
}

// WithChecksum starts the program only if the SHA-256 of its file is sum. Otherwise the
// start fails with an [*ipc.ChecksumError], and nothing runs.
//
// On Linux the file that was read is the file that runs, even if another one takes its
// path meanwhile. This needs a mounted /proc, and the user has to be allowed to read the
// file. On other systems the file is read just before the start. On no system does it
// help against somebody who can write to the file itself.
func WithChecksum(sum [sha256.Size]byte) Option {
	return func(s *Settings) { s.checksum = &sum }
}
