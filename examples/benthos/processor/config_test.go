//go:build unix

package processor_test

import (
	"context"
	"testing"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/stretchr/testify/require"
)

// bad are configurations, and what is said about them.
var bad = []struct{ conf, why string }{
	{`{}`, "a program is needed: set name, or self"},
	{`{name: x, self: y}`, "name and self exclude each other"},
	{`{name: x, driver: pigeon}`, "value pigeon is not a valid option for this field"},
	{`{name: x, workers: 0}`, "must be at least 1, and is 0"},
	{`{name: x, concurrency: -1}`, "must be at least 0, and is -1"},
	{`{name: x, attempts: 0}`, "must be at least 1, and is 0"},
	{`{name: x, timeout: soon}`, "must be a duration of 0s or more such as 500ms or 1m, and is soon"},
	{`{name: x, heartbeat: -1s}`, "must be a duration of 0s or more"},
	{`{name: x, method: ""}`, "a method needs a name"},
	{`{name: x, methd: y}`, "field methd not recognised"},
	{`{name: x, args: {}}`, "expected array value"},
}

// A linter says what is wrong with a configuration, before anything runs.
func TestLint(t *testing.T) {
	for _, c := range bad {
		err := service.NewStreamBuilder().AddProcessorYAML("tandem: " + c.conf)
		require.ErrorContains(t, err, c.why, c.conf)
	}
	for _, good := range []string{
		`{name: ./worker}`,
		`{name: ./worker, args: [-v, "1"], env: {A: b}, dir: /tmp, method: parse, driver: socket, workers: 8, concurrency: 1, timeout: 1m, idempotent: false, attempts: 1, heartbeat: 0s, metadata: {exclude_prefixes: [x]}}`,
		`{self: test, timeout: "${TANDEM_TEST_TIMEOUT:5s}", workers: ${TANDEM_TEST_WORKERS:2}}`,
	} {
		require.NoError(t, service.NewStreamBuilder().AddProcessorYAML("tandem: "+good), good)
	}
}

// Without the linter the stream does not start either.
func TestBadConfigurationDoesNotRun(t *testing.T) {
	for _, c := range append([]struct{ conf, why string }{
		{`{name: /nonexistent/worker}`, "/nonexistent/worker"},
		{`{self: test, args: [x], dir: /nonexistent/dir}`, "/nonexistent/dir"},
		{`{name: "false"}`, "exit"}, // ends before it is a worker
	}, bad...) {
		b := service.NewStreamBuilder()
		b.DisableLinting()
		require.NoError(t, b.SetLoggerYAML("level: none"))
		err := b.AddProcessorYAML("tandem: " + c.conf)
		if err == nil {
			require.NoError(t, b.AddInputYAML(`generate: {count: 1, interval: "", mapping: root = "x"}`))
			require.NoError(t, b.AddOutputYAML(`drop: {}`))
			var s *service.Stream
			if s, err = b.Build(); err == nil {
				err = s.Run(context.WithoutCancel(t.Context()))
			}
		}
		if c.conf == `{name: x, methd: y}` { // then it is the program that is not there
			c.why = "executable file not found"
		}
		require.Error(t, err, c.conf)
		t.Log(err)
	}
}
