//go:build unix

package examples

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var answered = regexp.MustCompile(`^\S+ +(\d+)  call (\d+) answered after `)

// TestSupervised kills the worker, and stops the next one. The calls go on, none is
// missing, and nothing is left.
func TestSupervised(t *testing.T) {
	program := build(t, t.TempDir(), "supervised", "./supervised")
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			cmd := exec.Command(program, "-driver", driver, "-every", "10ms", "-heartbeat", "10s")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			defer func() { _ = cmd.Process.Kill() }() // in vain, unless the test fails
			lines := bufio.NewScanner(out)

			calls := 0
			// next reads until a call is answered by another process than the last.
			next := func(last int) int {
				for lines.Scan() {
					t.Log(lines.Text())
					m := answered.FindStringSubmatch(lines.Text())
					if m == nil {
						continue
					}
					calls++
					assert.Equal(t, strconv.Itoa(calls), m[2], "number of the call")
					pid, err := strconv.Atoi(m[1])
					require.NoError(t, err)
					if pid != last {
						return pid
					}
				}
				require.FailNow(t, "the program has ended")
				return 0
			}

			first := next(0)
			require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
			second := next(first)
			require.NoError(t, syscall.Kill(second, syscall.SIGSTOP))
			third := next(second)
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			for lines.Scan() {
				t.Log(lines.Text())
			}
			assert.NoError(t, cmd.Wait())
			for _, pid := range []int{first, second, third} {
				assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "a worker is left")
			}
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			assert.Empty(t, left, "files left behind")
		})
	}

	t.Run("limit", func(t *testing.T) {
		t.Parallel()
		out, status := run(t, program, "-for", "10ms")
		assert.Contains(t, out, "try: kill -9 ")
		assert.Contains(t, out, "exited with code 0")
		assert.Equal(t, 0, status)
	})
	t.Run("wrong driver", func(t *testing.T) {
		out, status := run(t, program, "-driver", "pigeon")
		assert.Contains(t, out, `unknown driver "pigeon"`)
		assert.Equal(t, 2, status)
	})
}
