//go:build linux

package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

// row is one thing that a hostile side does.
type row struct {
	name string
	// driver and role narrow the row to one driver, and to a hostile "host" or "worker".
	driver, role string

	// hello takes the place of the exchange of hellos. If links is set, there is a link
	// after it.
	hello func(*peer) error
	links bool
	// confirms says that hello also takes the place of the confirmation.
	confirms bool
	// act is what the hostile side does over a link. If serves is set it answers all that
	// it is asked meanwhile, rightly.
	act    func(*peer) error
	serves bool

	// start is the class of error of the start, "" for none, and end is how the last call
	// of the honest side ends. Other calls end so, too, or rightly, or as their contexts
	// do, or as also says.
	start, end string
	also       []string
	either     bool // the last call, too, may end as also says
	// again is how it goes when the honest host then connects again, "" if it does not.
	again string
	// memory is how much the honest side may grow, in MiB; 0 stands for growth.
	memory int

	path      bool // an honest worker listens at a path
	heartbeat bool // an honest host has a heartbeat
	captured  bool // an honest host takes what its worker writes
	streams   bool // the honest side opens a stream, too
}

// growth is how much an honest side grows in rows that say nothing else: what the tests
// themselves take, which is far less than the windows of a link.
const growth = 56

// heavy lets one row at a time run that takes much memory.
var heavy sync.Mutex

// quiet is a logger that drops what it gets.
var quiet = slog.New(slog.DiscardHandler)

var rows = slices.Concat(helloRows, frameRows, metadataRows, creditRows, streamRows, ringRows, socketRows, fileRows, processRows, bufferRows)

func find(name string) *row {
	for i := range rows {
		if rows[i].name == name {
			return &rows[i]
		}
	}
	return nil
}

// startTimeout and callTimeout are those of the honest side. They run out only where they
// have to.
func (r *row) startTimeout() time.Duration {
	if r.start == timeout {
		return soon
	}
	return guard
}

func (r *row) callTimeout() time.Duration {
	if r.end == timeout {
		return soon
	}
	return guard
}

func TestHostilePeers(t *testing.T) {
	if err := ring.Supported(); err != nil {
		t.Skip("no shared memory here:", err)
	}
	names := make(map[string]bool)
	for i := range rows {
		r := &rows[i]
		require.False(t, names[r.name], "two rows are called %q", r.name)
		names[r.name] = true
		for _, driver := range []string{"shm", "socket"} {
			for _, role := range []string{"worker", "host"} {
				if r.driver != "" && r.driver != driver || r.role != "" && r.role != role {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/hostile %s", r.name, driver, role), func(t *testing.T) {
					t.Parallel()
					r.check(t, driver, role)
				})
			}
		}
	}
}

// check runs the processes of a row, and compares what the honest side reports.
func (r *row) check(t *testing.T, driver, role string) {
	if r.memory > 0 {
		heavy.Lock()
		defer heavy.Unlock()
	}
	got := r.run(t, driver, role)
	require.Empty(t, got.Leaks, "the honest side has leaked")
	require.Equal(t, or(r.start, right), got.Start.Class, "start: %s", got.Start.Text)
	if !raceEnabled {
		require.LessOrEqual(t, got.Grown, orInt(r.memory, growth), "MiB by which the honest side has grown")
	}
	if r.start != "" {
		return
	}
	ends := []string{r.end}
	if r.either {
		ends = append(ends, r.also...)
	}
	require.Contains(t, ends, got.Last.Class, "last call: %s", got.Last.Text)
	require.NotEmpty(t, got.Calls)
	for _, c := range got.Calls {
		require.Contains(t, append([]string{right, canceled, r.end}, r.also...), c.Class, c.Text)
	}
	require.Equal(t, r.again, got.Again.Class, "connect again: %s", got.Again.Text)
	require.NotEqual(t, other, got.Later.Class, got.Later.Text)
}

// run starts the process that the test starts in a row, and returns what the honest side
// reports.
func (r *row) run(t *testing.T, driver, role string) (got report) {
	in, out, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	first := "hostile"
	if role == "worker" {
		first = "honest"
	}
	var stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), rowEnv+"="+r.name, driverEnv+"="+driver, roleEnv+"="+first)
	cmd.ExtraFiles = []*os.File{out}
	cmd.Stderr, cmd.WaitDelay = &stderr, time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	out.Close()
	hung := time.AfterFunc(2*guard, func() { _ = syscall.Kill(cmd.Process.Pid, syscall.SIGABRT) })
	defer hung.Stop()
	text, _ := io.ReadAll(in)
	if role == "host" { // it may have stopped itself
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	said := stderr.String()
	require.NotContains(t, said, "panic:")
	require.NotContains(t, said, "fatal error:")
	if role == "worker" || len(text) == 0 {
		require.NoError(t, err, said)
	}
	require.NoError(t, json.Unmarshal(text, &got), "%s\n%s", text, tail(said))
	return got
}

func tail(s string) string { return s[max(0, len(s)-8<<10):] }

func or(s, otherwise string) string {
	if strings.TrimSpace(s) == "" {
		return otherwise
	}
	return s
}

func orInt(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
