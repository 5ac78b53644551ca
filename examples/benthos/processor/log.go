package processor

import (
	"context"
	"log/slog"

	"github.com/redpanda-data/benthos/v4/public/service"
)

// handler sends records to the engine's log, which decides about levels. Names of attributes in groups have those
// of the groups before them.
type handler struct {
	log   *service.Logger
	group string
}

func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var pairs []any
	r.Attrs(func(a slog.Attr) bool {
		pairs = h.append(pairs, h.group, a)
		return true
	})
	log := h.log
	if len(pairs) > 0 {
		log = log.With(pairs...)
	}
	switch {
	case r.Level >= slog.LevelError:
		log.Error(r.Message)
	case r.Level >= slog.LevelWarn:
		log.Warn(r.Message)
	case r.Level >= slog.LevelInfo:
		log.Info(r.Message)
	default:
		log.Debug(r.Message)
	}
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var pairs []any
	for _, a := range attrs {
		pairs = h.append(pairs, h.group, a)
	}
	return &handler{log: h.log.With(pairs...), group: h.group}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{log: h.log, group: h.group + name + "."}
}

// append appends the key and the value of an attribute.
func (h *handler) append(pairs []any, group string, a slog.Attr) []any {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		return append(pairs, group+a.Key, v.Any())
	}
	if a.Key != "" {
		group += a.Key + "."
	}
	for _, inner := range v.Group() {
		pairs = h.append(pairs, group, inner)
	}
	return pairs
}
