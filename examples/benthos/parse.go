package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/tandemipc/tandem/examples/benthos/batch"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// request is a line of a web server's log.
type request struct {
	Host   string `json:"host"`
	Time   string `json:"time"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Status int    `json:"status"`
	Bytes  int    `json:"bytes"`
}

var logLine = regexp.MustCompile(`^(\S+) \S+ \S+ \[([^]]+)\] "(\S+) (\S+)[^"]*" (\d{3}) (\d+|-)$`)

// parseLine makes JSON of a line in the common log format.
func parseLine(line []byte) ([]byte, *request, error) {
	m := logLine.FindSubmatch(line)
	if m == nil {
		return nil, nil, ipc.Errorf(ipc.CodeInvalidArgument, "no line of a log: %.80q", line)
	}
	r := &request{Host: string(m[1]), Time: string(m[2]), Method: string(m[3]), Path: string(m[4])}
	r.Status, _ = strconv.Atoi(string(m[5])) // three digits
	if b := string(m[6]); b != "-" {
		var err error
		if r.Bytes, err = strconv.Atoi(b); err != nil {
			return nil, nil, ipc.Errorf(ipc.CodeInvalidArgument, "bytes: %w", err)
		}
	}
	out, err := json.Marshal(r)
	return out, r, err
}

// serve is the worker.
func serve() error {
	s := worker.NewServer()
	batch.Handle(s, "parse", func(_ context.Context, m *batch.Message) error {
		out, r, err := parseLine(m.Bytes())
		if err != nil {
			return err
		}
		m.SetBytes(out)
		m.MetaSet("class", fmt.Sprintf("%dxx", r.Status/100))
		m.MetaSet("worker", os.Getpid())
		return nil
	})
	batch.Handle(s, "parse_only", func(_ context.Context, m *batch.Message) error {
		out, _, err := parseLine(m.Bytes())
		if err != nil {
			return err
		}
		m.SetBytes(out)
		return nil
	})
	return s.Serve(context.Background())
}
