//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/worker"
)

func TestMain(m *testing.M) {
	worker.Main(workerName, serve) // the tests' own program is worker too
	// Workers that are built with -race would sleep for a second when they exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	code := m.Run()
	if program.dir != "" {
		_ = os.RemoveAll(program.dir)
	}
	os.Exit(code)
}

func startHost(t *testing.T, workers int) (*Host, context.Context) {
	t.Helper()
	h, ctx, err := start(t.Context(), shm.Driver{}, workers)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, h.Close()) })
	h.Progress = func(int) {}
	h.Unreadable = func(err error) { t.Errorf("unreadable: %v", err) }
	return h, ctx
}

func TestHostJoinsChunks(t *testing.T) {
	text := bytes.Repeat([]byte("seven77 "), 5*chunkSize/8+1)
	for _, cut := range []int{0, 3, 7} { // so that the chunks' ends lie in words and in spaces
		h, ctx := startHost(t, 2)
		var progress atomic.Int64
		h.Progress = func(n int) { progress.Add(int64(n)) }
		name := filepath.Join(t.TempDir(), "text")
		require.NoError(t, os.WriteFile(name, text[cut:], 0o600))
		require.NoError(t, h.Count(ctx, []file{{name: name}}))
		ranked := map[string]int64{}
		assert.Equal(t, reference(text[cut:], ranked), h.totals)
		assert.EqualValues(t, len(text)-cut, progress.Load())
		words, err := h.MostFrequent(ctx, 1)
		require.NoError(t, err)
		assert.Equal(t, []Entry{{Word: []byte("seven77"), Count: ranked["seven77"]}}, words)
	}
}

func TestHostCanceled(t *testing.T) {
	h, ctx := startHost(t, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	cause := errors.New("enough")
	h.Progress = func(int) { cancel(cause) }
	name := sparse(t, 1<<32)
	assert.ErrorIs(t, h.Count(ctx, []file{{name: name}}), cause)
	assert.Len(t, h.slots, inFlight, "a slot is missing")
}

// TestHostNoticesIdleDeath: a worker that dies without work ends the run too.
func TestHostNoticesIdleDeath(t *testing.T) {
	h, ctx, err := start(t.Context(), shm.Driver{}, 2)
	require.NoError(t, err)
	require.NoError(t, h.workers[1].Signal(syscall.SIGKILL))
	<-ctx.Done()
	var exit *worker.ExitError
	require.ErrorAs(t, context.Cause(ctx), &exit)
	assert.Equal(t, h.workers[1].PID(), exit.PID)
	assert.ErrorAs(t, h.Count(ctx, nil), &exit)
	assert.ErrorAs(t, h.Close(), &exit)
}

func TestWalk(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	for _, name := range []string{"a/b/deep", "a/file", "top"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	require.NoError(t, os.Symlink("a", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("top", filepath.Join(dir, "filelink")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	at := func(names ...string) (paths []string) {
		for _, name := range names {
			paths = append(paths, filepath.Join(dir, name))
		}
		return paths
	}
	for _, test := range []struct {
		paths, want []string
		unreadable  int
	}{
		{at("."), at("a/b/deep", "a/file", "top"), 0},
		{at("a", "top"), at("a/b/deep", "a/file", "top"), 0},
		{at("link"), at("link/b/deep", "link/file"), 0},
		{at("filelink"), at("filelink"), 0},
		{at("fifo", "missing", "top"), at("top"), 2},
		{[]string{os.DevNull}, nil, 1},
	} {
		unreadable := 0
		files, err := walk(t.Context(), test.paths, func(error) { unreadable++ })
		require.NoError(t, err)
		var names []string
		for _, f := range files {
			names = append(names, f.name)
		}
		assert.Equal(t, test.want, names)
		assert.Equal(t, test.unreadable, unreadable, test.paths)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	_, err := walk(ctx, []string{dir}, nil)
	assert.ErrorIs(t, err, cause)
}
