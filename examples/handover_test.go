//go:build unix

package examples

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestHandover replaces a web server that is busy. No request fails, and nothing is left.
func TestHandover(t *testing.T) {
	program := build(t, t.TempDir(), "handover", "./handover")
	for _, driver := range []string{"shm", "socket"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			out, status := run(t, program, "-driver", driver, "-upgrades", "5")
			t.Log(out)
			assert.Equal(t, 0, status)
			assert.Equal(t, 5, strings.Count(out, " drains\n"))
			assert.Contains(t, out, "requests, answered by 6 workers, none failed\n")
		})
	}
	t.Run("wrong driver", func(t *testing.T) {
		out, status := run(t, program, "-driver", "pigeon")
		assert.Contains(t, out, `unknown driver "pigeon"`)
		assert.Equal(t, 2, status)
	})
}
