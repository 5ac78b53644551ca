//go:build unix

package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
)

func TestMain(m *testing.M) {
	worker.Main(workerName, serveWorker)
	machineMain()
	os.Exit(m.Run())
}

// texts writes files of random text, some of them of several pieces.
func texts(t *testing.T) (dir string) {
	dir = t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{0, 1, 1000, pieceSize - 1, pieceSize, pieceSize + 1, 3 * pieceSize, 2_000_000, 5_000_000} {
		b := make([]byte, size)
		for j := range b {
			b[j] = "abcdefgh  \n\t\x00\xff"[random.IntN(14)]
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), b, 0o600))
	}
	word := bytes.Repeat([]byte("x"), 3*pieceSize)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "word"), word, 0o600))
	return dir
}

// wc is what LC_ALL=C wc says of all files.
func wc(t *testing.T, files []string) (want Totals) {
	cmd := exec.Command("wc", append([]string{"-lwc"}, files...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no wc: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	require.Len(t, fields, 4, "the last line has the total")
	for i, n := range []*int64{&want.Lines, &want.Words, &want.Bytes} {
		*n, err = strconv.ParseInt(fields[i], 10, 64)
		require.NoError(t, err)
	}
	return want
}

// The cluster finds what wc does, whatever becomes of a machine in the middle.
func TestClusterCountsAsWcDoes(t *testing.T) {
	files, size, err := find([]string{texts(t)})
	require.NoError(t, err)
	want := wc(t, files)
	s, err := startNATS()
	require.NoError(t, err)
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	for name, harm := range map[string]func(m *machine){
		"nothing": nil,
		"killed":  (*machine).kill,
		"stopped": func(m *machine) { _ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGSTOP); m.killed.Store(true) },
		"ends":    func(m *machine) { _ = m.stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := startCluster(ctx, s.ClientURL(), 2, 2)
			require.NoError(t, err)
			defer func() {
				killGroup(c.machines[0].cmd) // one that is stopped does not end
				c.close()
				awaitNobody(t, s)
			}()
			var half func()
			if harm != nil {
				half = func() { harm(c.machines[0]) }
			}
			got, err := c.count(ctx, files, size, half)
			require.NoError(t, err)
			require.Equal(t, want, got.totals)
			require.NotZero(t, got.pieces["machine-1"]+got.pieces["machine-2"])
		})
	}
}

// awaitNobody returns when no connection is left.
func awaitNobody(t *testing.T, s *server.Server) {
	require.Eventually(t, func() bool { return s.NumClients() == 0 }, 30*time.Second, 5*time.Millisecond)
}

// The program does the same by itself, with a server of its own.
func TestProgram(t *testing.T) {
	o := options{machines: 2, workers: 1, kill: true, verify: true, paths: []string{texts(t)}}
	var out strings.Builder
	require.NoError(t, o.run(t.Context(), &out))
	require.Contains(t, out.String(), "verified: one process finds the same")
	require.Contains(t, out.String(), ", killed")
}

// Machines that cannot reach NATS are an error, and not waited for.
func TestNoNATS(t *testing.T) {
	_, err := startCluster(t.Context(), "nats://127.0.0.1:1", 1, 1)
	require.Error(t, err)
}

// Pieces are the whole file, and none ends within a word.
func TestPieces(t *testing.T) {
	files, _, err := find([]string{texts(t)})
	require.NoError(t, err)
	for _, path := range files {
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		var all []byte
		var sum Totals
		require.NoError(t, eachPiece(path, func(text []byte) error {
			require.NotEmpty(t, text)
			all = append(all, text...)
			sum.add(countText(text))
			return nil
		}))
		require.True(t, bytes.Equal(want, all))
		require.Equal(t, countText(want), sum)
	}
}
