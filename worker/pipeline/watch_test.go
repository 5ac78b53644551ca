package pipeline

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker/pool"
)

// What is shown are the figures of the statistics, rates since the last look, and at the end those of
// the whole run.
func TestViewer(t *testing.T) {
	first := Stats{Elapsed: 2 * time.Second, Position: 1000, Size: 10000, Stages: []StageStats{{Name: "parse", In: 1000, BytesIn: 4e6, Busy: time.Second, Window: 100, Held: 25}}}
	second := Stats{Elapsed: 4 * time.Second, Position: 5000, Size: 10000, Stages: []StageStats{{
		Name: "parse", In: 5000, BytesIn: 12e6, Busy: 2500 * time.Millisecond, Window: 100, Held: 50, Queued: 77, Retries: 3, DeadLetters: 2,
		Latency: pool.Latency{P50: 123456 * time.Nanosecond, P99: 2 * time.Millisecond}, Records: Sizes{Mean: 64}, Workers: pool.Stats{Size: 4, Restarts: 9},
	}}}
	t.Run("lines", func(t *testing.T) {
		var out bytes.Buffer
		v := viewer{w: &out}
		require.NoError(t, v.show(first, false))
		require.NoError(t, v.show(second, false))
		require.NoError(t, v.show(second, true))
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		require.Equal(t, []string{
			"2s  1000 of 10000 records, 10 %, 500/s, 18s left; parse 500/s, 0 queued, 50 % busy",
			"4s  5000 of 10000 records, 50 %, 2000/s, 4s left; parse 2000/s, 77 queued, 75 % busy, 9 restarts, 3 retries, 2 dead letters",
			"4s  5000 of 10000 records, 50 %, 1250/s, 4s left; parse 1250/s, 77 queued, 62 % busy, 9 restarts, 3 retries, 2 dead letters",
		}, lines)
	})
	t.Run("table", func(t *testing.T) {
		var out bytes.Buffer
		v := viewer{w: &out, live: true}
		require.NoError(t, v.show(first, false))
		out.Reset()
		require.NoError(t, v.show(second, false))
		text, drawnAnew := strings.CutPrefix(out.String(), "\x1b[3A\x1b[J")
		require.True(t, drawnAnew, "%q", out.String())
		lines := strings.Split(strings.TrimSpace(text), "\n")
		require.Len(t, lines, 3)
		require.Equal(t, strings.Fields("parse 2000 4.0 5000 77 50 % 64 123µs 2ms 75 % 4 9 3 2"), strings.Fields(lines[2]))
	})
	v := viewer{w: brokenWriter{}}
	require.Error(t, v.show(first, false))
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

// Stages have names of their own in metrics, whatever they are called.
func TestStageNames(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""},
		{"a b", "a|b"},
		{"a a b a", "a|a (2)|b|a (4)"},
		{"a_(3) a a", "a (3)|a|a (4)"},
	} {
		var s Stats
		for name := range strings.FieldsSeq(c[0]) {
			s.Stages = append(s.Stages, StageStats{Name: strings.ReplaceAll(name, "_", " ")})
		}
		require.Equal(t, c[1], strings.Join(s.StageNames(), "|"), c[0])
	}
}
