//go:build linux

package rendezvous

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

const (
	// modeEnv tells a process that a test has started what to be, with its arguments.
	modeEnv = "RENDEZVOUS_TEST_MODE"
	// testTimeout guards against a test that hangs.
	testTimeout = 60 * time.Second
	// nobody is another user than root.
	nobody = 65534
)

// helpers are what processes that a test starts can be.
var helpers = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeEnv); mode != "" {
		os.Unsetenv(modeEnv)
		if err := helpers[mode](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leaktest.VerifyNoLeaks(m.Run))
}

// helper returns a command that is a helper.
func helper(t testing.TB, mode string, args ...string) *exec.Cmd {
	t.Helper()
	require.Contains(t, helpers, mode)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), modeEnv+"="+mode)
	cmd.Stderr = os.Stderr
	return cmd
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// tempDir is t.TempDir with a short path.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "r")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func socketIn(t testing.TB) string { return filepath.Join(tempDir(t), "s") }

func listen(t testing.TB, name string) *Listener {
	t.Helper()
	l, err := Listen(name, ListenOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, testTimeout, time.Millisecond, what)
}
