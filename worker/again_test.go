//go:build linux

package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/worker"
)

func init() {
	serve := func() error { return worker.NewServer().Serve(context.Background()) }
	entries["arguments"] = func() error {
		fmt.Println(os.Args)
		return serve()
	}
	entries["nested"] = func() error {
		if level, err := strconv.Atoi(os.Args[1]); err == nil && level > 0 {
			cmd := worker.Self("nested")
			cmd.Args = append(cmd.Args, strconv.Itoa(level-1))
			w, err := worker.Start(context.Background(), cmd)
			if err != nil {
				return err
			}
			defer w.Close()
		}
		return serve()
	}
}

// runs starts a program that writes a line to a file each time that it runs. It
// returns what the program says and how often it ran.
func runs(t *testing.T, program string, args ...string) (said string, times int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "runs")
	cmd := exec.Command(program, args...)
	// A start that is killed with its host, and whose worker is none, leaves a directory.
	cmd.Env = append(os.Environ(), "RUNS="+file, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "%s", out)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(out), strings.Count(string(b), "\n")
}

// A program that takes itself for the host in each worker that it starts comes to an
// end soon, with an error that says why.
func TestProgramThatStartsItself(t *testing.T) {
	program := filepath.Join(t.TempDir(), "again")
	out, err := exec.Command("go", "build", "-o", program, "./testdata/again").CombinedOutput()
	require.NoError(t, err, string(out))
	for how, most := range map[string]int{"one": 3, "pool": 1 + 4 + 4*4, "other": 9} {
		said, times := runs(t, program, how)
		require.Contains(t, said, "starts itself", how)
		require.LessOrEqual(t, times, most, how)
	}
	said, _ := runs(t, program, "self")
	require.Contains(t, said, `main has not called worker.Main("entry", ...)`)
}

// A test binary without a call of Main does not run its tests again as a worker.
func TestSelfInTestsWithoutMain(t *testing.T) {
	program := filepath.Join(t.TempDir(), "nomain")
	out, err := exec.Command("go", "test", "-c", "-o", program, "./testdata/nomain").CombinedOutput()
	require.NoError(t, err, string(out))
	said, times := runs(t, program)
	require.Equal(t, 1, times)
	require.Contains(t, said, `TestMain`)
	require.Contains(t, said, `worker.Main("entry", ...)`)
}

// The entry of a worker does not see how tests are kept from running there.
func TestArgumentsOfSelf(t *testing.T) {
	var out bytes.Buffer
	cmd := worker.Self("arguments")
	cmd.Args = append(cmd.Args, "a", "-b")
	cmd.Stdout = &out
	w, err := worker.Start(t.Context(), cmd)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Equal(t, "[tandem-worker:arguments a -b]\n", out.String())
}

// A worker may start a worker of its own before it serves, and that another one.
func TestWorkersOfWorkers(t *testing.T) {
	cmd := worker.Self("nested")
	cmd.Args = append(cmd.Args, "4")
	w, err := worker.Start(t.Context(), cmd)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// A program that is no worker gets a question that helps.
func TestNoWorker(t *testing.T) {
	eachPlainDriver(t, func(t *testing.T, s spawner) {
		for _, args := range [][]string{{"/bin/true"}, {"/bin/cat"}, {"/bin/sh", "-c", "exit 0"}, {"/bin/sleep", "60"}, {"/bin/sh", "-c", "exec 3>&-; exec sleep 60"}} {
			_, err := s.spawn(t.Context(), exec.Command(args[0], args[1:]...), worker.WithStartTimeout(200*time.Millisecond))
			require.ErrorContains(t, err, "does its program call worker.Server.Serve", args)
			require.ErrorContains(t, err, "github.com/tandemipc/tandem/drivers/"+s.name, args)
		}
		_, err := s.spawn(t.Context(), worker.Self("exit"))
		require.NotContains(t, err.Error(), "worker.Main", "the worker has given a reason")
	})
}
