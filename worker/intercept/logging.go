package intercept

import (
	"context"
	"log/slog"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// LogOptions are options of [Logging]. The zero value is useful.
type LogOptions struct {
	// Done is the level of what has succeeded; nil stands for [slog.LevelDebug].
	Done slog.Leveler
	// Failed is the level of what has failed; nil stands for [slog.LevelWarn]. Attempts that
	// are followed by another one are not failures of their call: they have the level Done.
	Failed slog.Leveler
	// Slow makes what has succeeded, and has taken so long or longer, a record of level
	// Failed; 0 means that nothing is slow.
	Slow time.Duration
	// Metadata are keys of the request's metadata whose values belong into the log.
	Metadata []string
}

// Logging logs each call, notification and stream when it has ended, each handler, and each
// attempt that has failed. Records have the attributes method, duration, request and response
// (sizes in bytes), or sent and received (numbers of items), peer (the process id), those keys of the metadata that the options name,
// and of a failure code and error. They begin to cost when the logger takes their level.
//
// Logging panics if l is nil.
func Logging(l *slog.Logger, o LogOptions) ipc.Interceptor {
	if l == nil {
		panic("tandem: Logging(nil)")
	}
	if o.Done == nil {
		o.Done = slog.LevelDebug
	}
	if o.Failed == nil {
		o.Failed = slog.LevelWarn
	}
	log := func(role Role) ipc.InterceptFunc {
		return func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			began := time.Now()
			return around(ctx, next, func(err error) { o.log(ctx, l, role, call, time.Since(began), err) })
		}
	}
	return ipc.Interceptor{Call: log(RoleCall), Attempt: log(RoleAttempt), Handle: log(RoleHandler)}
}

func (o *LogOptions) log(ctx context.Context, l *slog.Logger, role Role, call *ipc.Call, took time.Duration, err error) {
	level := o.Done.Level()
	switch {
	case role == RoleAttempt && err == nil:
		return
	case role == RoleAttempt:
	case err != nil, o.Slow > 0 && took >= o.Slow:
		level = o.Failed.Level()
	}
	if !l.Enabled(ctx, level) {
		return
	}
	message := "tandem: " + role.String()
	switch {
	case call.OneWay:
		message += " of a notification"
	case call.Stream:
		message += " of a stream"
	}
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs, slog.String("method", call.Method.Name), slog.Duration("duration", took))
	if call.Stream {
		attrs = append(attrs, slog.Int64("sent", call.Sent.Count), slog.Int64("received", call.Received.Count))
	} else {
		attrs = append(attrs, slog.Int("request", call.RequestSize))
		if !call.OneWay && err == nil {
			attrs = append(attrs, slog.Int("response", call.ResponseSize))
		}
	}
	if call.Peer.PID != 0 {
		attrs = append(attrs, slog.Int("peer", call.Peer.PID))
	}
	if call.Attempt > 0 {
		attrs = append(attrs, slog.Int("attempt", call.Attempt))
	}
	for _, key := range o.Metadata {
		if value, ok := call.Metadata.Lookup(key); ok {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if err != nil {
		attrs = append(attrs, slog.String("code", ipc.CodeOf(err).String()), slog.Any("error", err))
	}
	l.LogAttrs(ctx, level, message, attrs...)
}
