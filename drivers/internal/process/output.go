package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxLine is the longest line that is logged as one, in bytes.
	maxLine = 64 << 10
	// maxWaiting is how many bytes of lines may wait for a slow logger.
	maxWaiting = 1 << 20
	// lineCost is what a line takes beside its bytes.
	lineCost = 64
)

// output logs the lines of a worker. Whoever writes to it never waits for the
// logger: lines that find no room are dropped and counted.
type output struct {
	log   *slog.Logger
	ready chan struct{} // capacity 1: there may be something to do
	done  chan struct{} // closed when all is logged

	mu      sync.Mutex // guards the following, and the lineWriters' parts
	writers []*lineWriter
	lines   []line
	waiting int // bytes of lines that are not logged yet, with lineCost each
	dropped int // lines since that was logged last
	closed  bool
}

type line struct {
	stream string
	at     time.Time
	text   string
}

func newOutput(log *slog.Logger) *output {
	return &output{log: log, ready: make(chan struct{}, 1), done: make(chan struct{})}
}

// writer returns what takes the bytes of one stream. It never fails.
func (o *output) writer(stream string) *lineWriter {
	w := &lineWriter{out: o, stream: stream}
	o.writers = append(o.writers, w)
	return w
}

// lineWriter cuts a stream into lines.
type lineWriter struct {
	out    *output
	stream string
	part   []byte // of a line that has no end yet, shorter than maxLine
}

func (w *lineWriter) Write(b []byte) (int, error) {
	o := w.out
	o.mu.Lock()
	defer o.mu.Unlock()
	for rest := b; len(rest) > 0; {
		n := min(len(rest), maxLine-len(w.part))
		end := bytes.IndexByte(rest[:n], '\n')
		if end >= 0 {
			n = end + 1
		}
		w.part = append(w.part, rest[:n]...)
		rest = rest[n:]
		if end >= 0 || len(w.part) == maxLine {
			o.add(w)
		}
	}
	o.wake()
	return len(b), nil
}

// add queues the line of w, without its end, unless it is empty or there is no
// room. mu is held.
func (o *output) add(w *lineWriter) {
	text := bytes.TrimRight(w.part, "\r\n")
	switch {
	case len(text) == 0:
	case o.closed, o.waiting+len(text)+lineCost > maxWaiting:
		o.dropped++
	default:
		o.waiting += len(text) + lineCost
		o.lines = append(o.lines, line{w.stream, time.Now(), string(text)})
	}
	w.part = w.part[:0]
}

func (o *output) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// close queues the last lines if they lack an end. run then leaves when all is
// logged.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.writers {
		o.add(w)
	}
	o.closed = true
	o.wake()
}

// run logs what comes, of the process with this id, until close.
func (o *output) run(pid int) {
	defer close(o.done)
	for range o.ready {
		o.mu.Lock()
		lines, dropped, closed := o.lines, o.dropped, o.closed
		o.lines, o.dropped = nil, 0
		o.mu.Unlock()
		for _, l := range lines {
			o.logLine(l, pid)
			o.mu.Lock()
			o.waiting -= len(l.text) + lineCost
			o.mu.Unlock()
		}
		if dropped > 0 {
			o.log.Warn("tandem: lines of the worker's output were dropped, for the logger is too slow", "lines", dropped, "pid", pid)
		}
		if closed {
			return
		}
	}
}

func (o *output) logLine(l line, pid int) {
	at, level, message, attrs, ok := parseRecord(l)
	if !ok {
		at, level, message, attrs = l.at, slog.LevelInfo, l.text, nil
	}
	h := o.log.Handler()
	if !h.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(at, level, message, 0)
	for _, own := range []slog.Attr{slog.Int("pid", pid), slog.String("stream", l.stream)} {
		attrs = append(slices.DeleteFunc(attrs, own.Equal), own) // not said twice, and the last of its name
	}
	r.AddAttrs(attrs...)
	_ = h.Handle(context.Background(), r) // slog.Logger drops this error, too
}

// parseRecord reads a line that a slog.JSONHandler has written: an object with a
// level and a message. The time is that of the line if it names none.
func parseRecord(l line) (at time.Time, level slog.Level, message string, attrs []slog.Attr, ok bool) {
	if l.text[0] != '{' {
		return at, level, message, nil, false
	}
	d := json.NewDecoder(strings.NewReader(l.text))
	d.UseNumber()
	v, err := readValue(d)
	if err != nil {
		return at, level, message, nil, false
	}
	if _, end := d.Token(); end != io.EOF {
		return at, level, message, nil, false
	}
	at = l.at
	seen := make(map[string]bool)
	for _, a := range v.Group() {
		if a.Value.Kind() == slog.KindString && !seen[a.Key] {
			text := a.Value.String()
			switch a.Key {
			case slog.TimeKey:
				if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
					at, seen[a.Key] = t, true
				}
			case slog.LevelKey:
				seen[a.Key] = level.UnmarshalText([]byte(text)) == nil
			case slog.MessageKey:
				message, seen[a.Key] = text, true
			}
			if seen[a.Key] {
				continue
			}
		}
		attrs = append(attrs, a)
	}
	return at, level, message, attrs, seen[slog.LevelKey] && seen[slog.MessageKey]
}

// readValue reads a value: an object is a group, in its order.
func readValue(d *json.Decoder) (slog.Value, error) {
	token, err := d.Token()
	if err != nil {
		return slog.Value{}, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return readGroup(d)
		}
		return readList(d)
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return slog.Int64Value(n), nil
		}
		f, err := t.Float64()
		return slog.Float64Value(f), err
	default:
		return slog.AnyValue(token), nil
	}
}

func readGroup(d *json.Decoder) (slog.Value, error) {
	var group []slog.Attr
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return slog.Value{}, err
		}
		name, ok := key.(string)
		if !ok {
			return slog.Value{}, errors.New("a key is no string")
		}
		v, err := readValue(d)
		if err != nil {
			return slog.Value{}, err
		}
		group = append(group, slog.Attr{Key: name, Value: v})
	}
	_, err := d.Token()
	return slog.GroupValue(group...), err
}

func readList(d *json.Decoder) (slog.Value, error) {
	var list []any
	for d.More() {
		v, err := readValue(d)
		if err != nil {
			return slog.Value{}, err
		}
		list = append(list, plain(v))
	}
	_, err := d.Token()
	return slog.AnyValue(list), err
}

// plain returns what encoders know: maps in place of groups.
func plain(v slog.Value) any {
	if v.Kind() != slog.KindGroup {
		return v.Any()
	}
	m := make(map[string]any)
	for _, a := range v.Group() {
		m[a.Key] = plain(a.Value)
	}
	return m
}
