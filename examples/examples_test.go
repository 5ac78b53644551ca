// Package examples tests the examples as users run them.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// build builds a program of this folder as dir/name.
func build(t *testing.T, dir, name, source string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	out, err := exec.Command("go", "build", "-o", path, source).CombinedOutput()
	require.NoError(t, err, string(out))
	return path
}

// run runs a program with a TMPDIR of its own, in which it may leave nothing.
func run(t *testing.T, program string, args ...string) (output string, status int) {
	t.Helper()
	tmp := t.TempDir()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, _ := cmd.CombinedOutput() // the status says more
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "files left behind")
	return string(out), cmd.ProcessState.ExitCode()
}

func TestEcho(t *testing.T) {
	out, status := run(t, build(t, t.TempDir(), "echo", "./echo"))
	assert.Equal(t, "hello, worker\n", out)
	assert.Equal(t, 0, status)
}

func TestStreams(t *testing.T) {
	program := build(t, t.TempDir(), "streams", "./streams")
	out, status := run(t, program)
	const want = `lines as they are written:
  1 info: request 1 took 10 ms
  2 warn: request 2 took 100 ms
  3 info: request 3 took 10 ms
  4 warn: request 4 took 100 ms
  5 info: request 5 took 10 ms
lines with warn, then with info:
  2 warn: request 2 took 100 ms
  4 warn: request 4 took 100 ms
  1 info: request 1 took 10 ms
  3 info: request 3 took 10 ms
  5 info: request 5 took 10 ms
`
	assert.Equal(t, want, out)
	assert.Equal(t, 0, status)

	file := filepath.Join(t.TempDir(), "given.log")
	require.NoError(t, os.WriteFile(file, []byte("a\nb\nc\nd warn\ne\nf info\n"), 0o600))
	out, status = run(t, program, file)
	assert.Equal(t, "lines as they are written:\n  1 a\n  2 b\n  3 c\n  4 d warn\n  5 e\nlines with warn, then with info:\n  4 d warn\n  6 f info\n", out)
	assert.Equal(t, 0, status)
}

func TestTwoBinaries(t *testing.T) {
	dir := t.TempDir()
	host := build(t, dir, "host", "./twobinaries/host")

	out, status := run(t, host)
	assert.Contains(t, out, "go build -o bin/worker ./examples/twobinaries/worker")
	assert.Equal(t, 1, status)

	worker := build(t, dir, "worker", "./twobinaries/worker")
	const want = `two cost 2598.00 EUR
errors.Is(err, ErrUnknownItem) is true, the code not_found: not_found: unknown item: "unicycle"
the worker said out_of_range, with stock 3
errors.Is(err, DeadlineExceeded) is true: tandem: call of "shop.inspect" took longer than 50ms
there are 3
`
	elsewhere := build(t, t.TempDir(), "host", "./twobinaries/host")
	for _, driver := range []string{"shm", "socket"} {
		out, status = run(t, host, "-driver", driver)
		assert.Equal(t, want, out)
		assert.Equal(t, 0, status)
		out, _ = run(t, elsewhere, "-driver", driver, "-worker", worker)
		assert.Equal(t, want, out)
	}

	out, status = run(t, host, "-driver", "pigeon")
	assert.Contains(t, out, `unknown driver "pigeon"`)
	assert.Equal(t, 2, status)

	out, status = run(t, worker) // without a host
	assert.Contains(t, out, "not started by a host")
	assert.Equal(t, 1, status)
}
