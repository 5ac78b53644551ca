package examples

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLogs gathers the logs of workers of which the last is killed.
func TestLogs(t *testing.T) {
	program := build(t, t.TempDir(), "logs", "./logs")
	out, status := run(t, program, "-workers", "4", "-lines", "300")
	require.Equal(t, 0, status, out)
	for n := 1; n <= 3; n++ {
		name := "worker " + strconv.Itoa(n)
		// 300 lines and two metrics for each 50.
		assert.Contains(t, out, name+" has ended: all of its 312 records came: 300 lines, requests 300, slow 30\n")
		assert.Equal(t, 300, strings.Count(out, name+": level="))
		assert.Equal(t, 1, strings.Count(out, name+": level=WARN msg=request n=300 ms=100\n"))
	}
	end := regexp.MustCompile(`worker 4 was killed: all of its (\d+) records came: (\d+) lines, requests (\d+), slow`).FindStringSubmatch(out)
	require.NotNil(t, end, out)
	lines, err := strconv.Atoi(end[2])
	require.NoError(t, err)
	assert.Equal(t, lines, strings.Count(out, "worker 4: level="))
	assert.GreaterOrEqual(t, lines, 150, "it was killed when so many had come")
	assert.Less(t, lines, 300, "and held up by its ring until then")

	out, status = run(t, program, "-workers", "0")
	assert.Contains(t, out, "there has to be a worker")
	assert.Equal(t, 2, status)
}
