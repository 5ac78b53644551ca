package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// notes are runs of the program detached that share a worker.
type notes struct {
	*testing.T
	program, tmp, ref string
}

// run runs the program, and returns what it prints and its exit status.
func (n *notes) run(args ...string) (output string, status int) {
	cmd := exec.Command(n.program, append([]string{"-ref", n.ref}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+n.tmp)
	out, _ := cmd.CombinedOutput() // the status says more
	return string(out), cmd.ProcessState.ExitCode()
}

// start starts the worker and returns its pid.
func (n *notes) start() int {
	out, status := n.run("start")
	require.Equal(n, 0, status, out)
	m := regexp.MustCompile(`^worker (\d+) keeps notes`).FindStringSubmatch(out)
	require.NotNil(n, m, out)
	pid, err := strconv.Atoi(m[1])
	require.NoError(n, err)
	return pid
}

// reap waits for the end of the worker, which has become a child of this process.
func (n *notes) reap(pid int) (status syscall.WaitStatus) {
	_, err := syscall.Wait4(pid, &status, 0, nil)
	require.NoError(n, err)
	return status
}

// empty checks that nothing is left.
func (n *notes) empty() {
	left, err := os.ReadDir(n.tmp)
	require.NoError(n, err)
	assert.Empty(n, left, "files left behind")
}

// TestDetached: a worker serves one program after the other, until it is stopped
// or killed.
func TestDetached(t *testing.T) {
	// A worker whose host has ended becomes a child of this process, not of init.
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	tmp := t.TempDir()
	n := &notes{t, build(t, t.TempDir(), "detached", "./detached"), tmp, filepath.Join(tmp, "ref")}

	first := n.start()
	moved := n.program + ".moved" // go run removes the program when start has ended
	require.NoError(t, os.Rename(n.program, moved))
	n.program = moved
	out, status := n.run("start")
	assert.Contains(t, out, "stop the worker")
	assert.Equal(t, 1, status)
	out, status = n.run("call", "hello,", "world")
	assert.Equal(t, fmt.Sprintf("worker %d has [\"hello, world\"]\n", first), out)
	assert.Equal(t, 0, status)

	// Hosts that come at once take turns.
	var hosts sync.WaitGroup
	for range 4 {
		hosts.Go(func() {
			out, status := n.run("call", "at once")
			assert.Equal(t, 0, status, out)
		})
	}
	hosts.Wait()
	out, _ = n.run("call", "last")
	assert.Equal(t, 4, strings.Count(out, "at once"), out)

	out, status = n.run("stop")
	assert.Equal(t, fmt.Sprintf("worker %d has ended\n", first), out)
	assert.Equal(t, 0, status)
	assert.Equal(t, syscall.WaitStatus(0), n.reap(first), "exit code 0")
	n.empty()
	out, status = n.run("call", "nobody")
	assert.Contains(t, out, "start a worker first")
	assert.Equal(t, 1, status)

	second := n.start()
	require.NoError(t, syscall.Kill(second, syscall.SIGKILL))
	n.reap(second)
	out, status = n.run("call", "nobody")
	assert.Contains(t, out, "stale reference")
	assert.Equal(t, 1, status)
	n.empty()

	_, status = n.run("talk")
	assert.Equal(t, 2, status)
}
