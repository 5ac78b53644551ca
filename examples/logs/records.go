package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring"
)

// What a record is, by its tag. All begin with their number, 8 bytes.
const (
	tagLine   = iota // a line of text
	tagMetric        // a value, 8 bytes, and its name
)

// journal is where a worker's records go. Any goroutine may use it.
type journal struct {
	mu        sync.Mutex
	out       *ring.Producer
	published *ipc.Counters // how many records; the host reads it
}

// add publishes a record. A full ring holds the caller up until the host has read some, so nothing is
// lost. The only error is that the host is gone.
func (j *journal) add(tag byte, body []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	number := binary.LittleEndian.AppendUint64(make([]byte, 0, 8), j.published.Load(0))
	if err := j.out.Send(context.Background(), tag, number, body); err != nil {
		return err
	}
	j.published.Add(0, 1)
	return nil
}

// Write makes a journal an io.Writer for slog's handlers, which write a line at a time.
func (j *journal) Write(line []byte) (int, error) {
	if err := j.add(tagLine, line); err != nil {
		return 0, err
	}
	return len(line), nil
}

// logger returns a logger that writes into the journal.
func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // for a shorter line
			}
			return a
		},
	}))
}

// metric publishes the value of a metric.
func (j *journal) metric(name string, value uint64) error {
	return j.add(tagMetric, append(binary.LittleEndian.AppendUint64(nil, value), name...))
}

// parse takes a record apart. It copies it first, since the worker could still change it.
func parse(data []byte) (number uint64, body []byte, err error) {
	if len(data) < 8 {
		return 0, nil, fmt.Errorf("a record of %d bytes", len(data))
	}
	data = append([]byte(nil), data...)
	return binary.LittleEndian.Uint64(data), data[8:], nil
}

func parseMetric(body []byte) (name string, value uint64, err error) {
	if len(body) < 8 {
		return "", 0, fmt.Errorf("a metric of %d bytes", len(body))
	}
	return string(body[8:]), binary.LittleEndian.Uint64(body), nil
}
