package natsipc

import (
	"fmt"
	"time"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/nats/internal/flow"
	"github.com/tandemipc/tandem/ipc"
)

// DefaultPrefix is the first part of all subjects, where no other is given.
const DefaultPrefix = "tandem"

// How a caller and a server find out that the other one is gone.
const (
	// DefaultHeartbeat is the interval at which a server says of a call that takes long that
	// it is still at work.
	DefaultHeartbeat = time.Second
	// MinHeartbeat is the shortest interval.
	MinHeartbeat = 10 * time.Millisecond
	// MaxHeartbeat is the longest interval.
	MaxHeartbeat = time.Minute
	// maxMissed is how many heartbeats in a row may be missed.
	maxMissed = 3
	// acceptDelay is after what time the first one is sent, from which the caller learns
	// whom to tell that it has given up.
	acceptDelay = 20 * time.Millisecond
)

// Option is an option of [Caller].
type Option func(*settings)

type settings struct {
	prefix       string
	codec        ipc.Codec
	timeout      time.Duration
	heartbeat    time.Duration
	attempts     int
	maxMessage   int
	window       int
	interceptors []ipc.Interceptor
}

func defaults() settings {
	return settings{
		prefix: DefaultPrefix, codec: ipc.CBOR, timeout: drivers.DefaultTimeouts().Call, heartbeat: DefaultHeartbeat,
		attempts: 1, maxMessage: drivers.DefaultMaxMessage, window: flow.DefaultWindow,
	}
}

// WithPrefix sets the first part of all subjects; the default is [DefaultPrefix]. Both sides need
// the same. It panics unless prefix has only ASCII letters, digits, - and _.
func WithPrefix(prefix string) Option {
	if !validToken(prefix) {
		panic(fmt.Sprintf("tandem: WithPrefix(%q): need ASCII letters, digits, - and _", prefix))
	}
	return func(s *settings) { s.prefix = prefix }
}

// WithCodec sets the codec of methods that do not choose one; the default is [ipc.CBOR]. The
// server has to know it. It panics for nil and for [ipc.Fixed].
func WithCodec(c ipc.Codec) Option {
	if c == nil || c == ipc.Fixed {
		panic("tandem: WithCodec: need a codec for all types")
	}
	return func(s *settings) { s.codec = c }
}

// WithCallTimeout sets the timeout of calls that have none of their own; the default is 5
// minutes, and 0 means none. It panics if d is negative.
func WithCallTimeout(d time.Duration) Option {
	if d < 0 {
		panic(fmt.Sprintf("tandem: WithCallTimeout(%v): a negative duration", d))
	}
	return func(s *settings) { s.timeout = d }
}

// WithHeartbeat sets the interval at which servers say of a call that takes long that they are still
// at work, and at which both sides of a stream say so; the default is [DefaultHeartbeat]. A call or a stream fails with an
// error that wraps [ipc.ErrPeerGone] when between three and four of them were missed. It panics if d is less than [MinHeartbeat] or more than [MaxHeartbeat].
func WithHeartbeat(d time.Duration) Option {
	if d != bounded(d) {
		panic(fmt.Sprintf("tandem: WithHeartbeat(%v): need %v to %v", d, MinHeartbeat, MaxHeartbeat))
	}
	return func(s *settings) { s.heartbeat = d }
}

// WithRetry sends a request of a method that is declared [ipc.WithIdempotent] again, to whoever serves then,
// when its server has ended before it answered, or the connection was cut as it was written: attempts times in all, within the timeout of the call. Methods
// and calls can have attempts of their own: see [ipc.WithAttempts]. It panics if attempts is less than 1.
func WithRetry(attempts int) Option {
	if attempts < 1 {
		panic(fmt.Sprintf("tandem: WithRetry(%d): need at least 1", attempts))
	}
	return func(s *settings) { s.attempts = attempts }
}

// WithMaxMessage sets the size of the largest request, response and item of a stream in bytes; the default is 64 MiB. It
// panics if bytes is not positive.
func WithMaxMessage(bytes int) Option {
	if bytes <= 0 {
		panic(fmt.Sprintf("tandem: WithMaxMessage(%d): need a positive number", bytes))
	}
	return func(s *settings) { s.maxMessage = bytes }
}

// The least and the largest window of a stream in bytes.
const (
	MinStreamWindow = flow.Initial
	MaxStreamWindow = 64 << 20
)

// WithStreamWindow sets how many bytes of a stream this side takes that its reader has not read; the default is 1 MiB. A stream begins with
// [MinStreamWindow], 64 KiB, and grows while it is read. What all streams of a [Client] have beyond that is 16 windows at most, so a stream may stay
// smaller where there are many. A stream carries at most a window in the time that a message takes to the other side and back, so
// one over a long way needs a larger one. It panics if bytes is less than [MinStreamWindow] or more than [MaxStreamWindow].
func WithStreamWindow(bytes int) Option {
	if bytes < MinStreamWindow || bytes > MaxStreamWindow {
		panic(fmt.Sprintf("tandem: WithStreamWindow(%d): need %d to %d", bytes, MinStreamWindow, MaxStreamWindow))
	}
	return func(s *settings) { s.window = bytes }
}

// WithInterceptors puts interceptors around the calls, as worker.WithInterceptors does. Peer of an [ipc.Call]
// is the zero Peer.
func WithInterceptors(list ...ipc.Interceptor) Option {
	return func(s *settings) {
		s.interceptors = append(s.interceptors[:len(s.interceptors):len(s.interceptors)], list...)
	}
}
