package leaktest

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a Baseline does not find, no driver's tests would.
func TestLeaksAreFound(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("most of it needs /proc")
	}
	leaks := func(b *Baseline) string {
		b.patience = 0
		return strings.Join(b.Leaks(), "\n")
	}
	b := NewBaseline()
	assert.Empty(t, leaks(b))

	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	assert.Contains(t, leaks(b), "1 leaked descriptor(s) of "+os.DevNull)
	f.Close()

	r, w, err := os.Pipe()
	require.NoError(t, err)
	assert.Contains(t, leaks(b), "2 leaked descriptor(s) of pipe")

	cmd := exec.Command("cat")
	cmd.Stdin = r
	require.NoError(t, cmd.Start())
	r.Close()
	assert.Contains(t, leaks(b), "child process left: pid ")
	w.Close()
	for !processState(cmd.Process.Pid, 'Z') {
		time.Sleep(time.Millisecond)
	}
	assert.Contains(t, leaks(b), "child process left", "also one that has ended and was not reaped")
	require.NoError(t, cmd.Wait())

	stop := make(chan struct{})
	go func() { <-stop }()
	assert.Contains(t, leaks(b), "TestLeaksAreFound.func")
	close(stop)

	b.patience = 10 * time.Second
	assert.Empty(t, b.Leaks())
}

func TestFilesLeftAreFound(t *testing.T) {
	var inside string
	before := os.Getenv("TMPDIR")
	assert.Zero(t, VerifyNoLeaks(func() int { inside = os.TempDir(); return 0 }))
	assert.NoDirExists(t, inside)
	assert.Equal(t, before, os.Getenv("TMPDIR"))
	assert.Equal(t, 1, VerifyNoLeaks(func() int {
		f, err := os.CreateTemp("", "")
		require.NoError(t, err)
		f.Close()
		return 0
	}))
	assert.Equal(t, 7, VerifyNoLeaks(func() int { return 7 }))
}

// processState reports whether a process is in the state that /proc calls so.
func processState(pid int, state byte) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return strings.TrimSpace(rest)[0] == state
}
