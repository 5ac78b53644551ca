//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

func TestMain(m *testing.M) {
	worker.Main(workerName, serve)
	if len(os.Args) == 2 && os.Args[1] == linesCommand {
		if err := lines(os.Stdin, os.Stdout, os.Stderr); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The configuration that the example shows has no faults, and does what it says.
func TestConfiguration(t *testing.T) {
	if err := ring.Supported(); err != nil {
		t.Skip(err)
	}
	conf, err := os.ReadFile("config/logs.yaml")
	require.NoError(t, err)
	out := t.TempDir() + "/out"
	yaml := strings.Replace(string(conf), "stdout: {}", "file: {path: "+out+", codec: lines}", 1)
	b := service.NewStreamBuilder()
	require.NoError(t, b.SetYAML(yaml))
	require.NoError(t, b.SetLoggerYAML("level: none"))
	s, err := b.Build()
	require.NoError(t, err)
	require.NoError(t, s.Run(context.WithoutCancel(t.Context())))

	written, err := os.ReadFile(out)
	require.NoError(t, err)
	all := bytes.Split(bytes.TrimSpace(written), []byte("\n"))
	require.Len(t, all, 1000)
	parsed, failed := 0, 0
	for _, line := range all {
		var got struct {
			request
			Class, Failed, Why string
		}
		require.NoError(t, json.Unmarshal(line, &got), string(line))
		if got.Failed != "" {
			failed++
			require.Contains(t, got.Why, "no line of a log")
			continue
		}
		parsed++
		require.Equal(t, "GET", got.Method)
		require.Equal(t, string('0'+rune(got.Status/100))+"xx", got.Class)
	}
	require.Positive(t, parsed)
	require.Positive(t, failed)
}

// All subjects of the benchmark do the same work, which it checks itself.
func TestBench(t *testing.T) {
	if err := ring.Supported(); err != nil {
		t.Skip(err)
	}
	var out strings.Builder
	require.NoError(t, bench(&out, effort{rounds: 1, each: 20 * time.Millisecond}))
	for _, s := range subjects {
		require.Contains(t, out.String(), "\n| "+s.name+" |")
	}
}

func TestParseLine(t *testing.T) {
	for line, want := range map[string]string{
		benchLine:                     `{"host":"203.0.113.7","time":"27/Nov/2026:10:00:00 +0000","method":"GET","path":"/images/launch/logo.gif","status":200,"bytes":1839}`,
		`::1 - me [x] "HEAD /" 404 -`: `{"host":"::1","time":"x","method":"HEAD","path":"/","status":404,"bytes":0}`,
		``:                            "",
		`::1 - - [x] "GET /" 20 1`:    "",
		`::1 - - [x] "GET /" 200 99999999999999999999`: "",
	} {
		got, _, err := parseLine([]byte(line))
		require.Equal(t, want == "", err != nil, line)
		require.Equal(t, want, string(got))
	}
}
