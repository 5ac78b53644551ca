//go:build unix

package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
	"github.com/tandemipc/tandem/worker/pool"
)

// hostVariable makes the test's binary a host: "DIR N SEED DRIVER".
const hostVariable = "TANDEM_TEST_PIPELINE_HOST"

const hostRecords = 30_000

func line(dst []byte, a answer) ([]byte, error) {
	return fmt.Appendf(dst, "%d %d\n", a.N, a.Sum), nil
}

// hostMain runs a pipeline from where its predecessor was killed, into a file.
func hostMain(how string) error {
	dir, driver, _ := strings.Cut(how, " ")
	cmd := worker.Self("test")
	cmd.Stderr = io.Discard
	if driver == socketName {
		return host(dir, cmd, socket.Driver{})
	}
	return host(dir, cmd, shm.Driver{})
}

func host[C drivers.Channel](dir string, cmd *exec.Cmd, driver drivers.Driver[C]) error {
	c, err := pool.New(context.Background(), 2, cmd, driver, pool.WithWorkers(restartAlways))
	if err != nil {
		return err
	}
	defer c.Close()
	sink, err := pipeline.OpenFile(dir+"/out", line)
	if err != nil {
		return err
	}
	defer sink.Close()
	from, err := pipeline.LoadCheckpoint(dir + "/checkpoint")
	if err != nil {
		return err
	}
	flow := pipeline.From(count(hostRecords, func(i int) record { return record{Data: make([]byte, i%4)} }))
	each := pipeline.Flatten(pipeline.Through(flow, parts, c))
	out := pipeline.Through(each, again, c)
	err = out.Into(context.Background(), sink, pipeline.Resume(from), pipeline.Save(pipeline.SaveTo(dir+"/checkpoint"), 5*time.Millisecond))
	fmt.Println(sink.Doubled(), from.Position)
	return err
}

// The host is killed again and again, and goes on each time from its last checkpoint: in the end the
// file has each record exactly once.
func TestExactlyOnceAcrossRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		if driver == shm.Name {
			startPool(t, driver, 1) // or skip
		}
		dir := t.TempDir()
		random := rand.New(rand.NewPCG(3, 4))
		killed := 0
		var doubled uint64
		for {
			host := exec.Command(os.Args[0])
			host.Env = append(os.Environ(), hostVariable+"="+dir+" "+driver)
			var said bytes.Buffer
			host.Stdout, host.Stderr = &said, &said
			require.NoError(t, host.Start())
			if killed < 12 {
				time.Sleep(time.Duration(10+random.IntN(120)) * time.Millisecond) // then it is killed, wherever it is
				_ = host.Process.Kill()
			}
			err := host.Wait()
			if err == nil {
				var once, from uint64
				_, err := fmt.Sscan(said.String(), &once, &from)
				require.NoError(t, err, said.String())
				doubled += once
				break
			}
			require.Equal(t, syscall.SIGKILL, host.ProcessState.Sys().(syscall.WaitStatus).Signal(), said.String())
			killed++
		}
		text, err := os.ReadFile(dir + "/out")
		require.NoError(t, err)
		var got []string
		for l := range strings.Lines(string(text)) {
			got = append(got, strings.TrimSpace(l))
		}
		var want []string
		for i := range hostRecords {
			for j := range i % 4 {
				want = append(want, fmt.Sprint(i, " ", j+1))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		require.Equal(t, len(want), len(got))
		require.True(t, slices.Equal(want, got))
		t.Logf("killed %d times; %d records came again", killed, doubled)
	})
}

// A journal or a file that was cut anywhere, as by a crash, is opened as it was after an earlier Write,
// and what is written again completes it.
func TestFileSinkIsCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	text := func(dst []byte, s string) ([]byte, error) { return append(append(dst, s...), '\n'), nil }
	sink, err := pipeline.OpenFile(path, text)
	require.NoError(t, err)
	var all []pipeline.Item[string]
	var whole []string // the file after each Write
	whole = append(whole, "")
	for i := range 12 {
		items := []pipeline.Item[string]{
			{ID: pipeline.ID{Pos: uint64(i * 3)}, Record: fmt.Sprint("record ", i)},
			{ID: pipeline.ID{Pos: uint64(i*3 + 2), Part: 1, Path: "2"}, Record: "a part"},
			{ID: pipeline.ID{Pos: uint64(i*3 + 1), Part: 7}, Record: "another"},
		}
		all = append(all, items...)
		require.NoError(t, sink.Write(t.Context(), items))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		whole = append(whole, string(b))
		if i == 5 {
			require.NoError(t, sink.Forget(0))
		}
	}
	require.NoError(t, sink.Close())
	require.Error(t, sink.Write(t.Context(), all[:1]))
	journal, err := os.ReadFile(path + ".ids")
	require.NoError(t, err)
	file := whole[len(whole)-1]
	const header = 13 // what begins every journal
	for cut := header; cut <= len(journal); cut++ {
		require.NoError(t, os.WriteFile(path, []byte(file+"torn"), 0o600))
		require.NoError(t, os.WriteFile(path+".ids", journal[:cut], 0o600))
		sink, err := pipeline.OpenFile(path, text)
		require.NoError(t, err, cut)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		at := slices.Index(whole, string(b))
		require.GreaterOrEqual(t, at, 0, "cut at %d: %q", cut, b)
		for _, item := range all {
			require.NoError(t, sink.Write(t.Context(), []pipeline.Item[string]{item}))
		}
		require.EqualValues(t, at*3, sink.Doubled())
		require.NoError(t, sink.Close())
		b, err = os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, file, string(b), "cut at %d", cut)
	}
	// A bit that has changed ends the journal there, too.
	for i := header; i < len(journal); i++ {
		damaged := bytes.Clone(journal)
		damaged[i] ^= 0x10
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		require.NoError(t, os.WriteFile(path+".ids", damaged, 0o600))
		sink, err := pipeline.OpenFile(path, text)
		require.NoError(t, err)
		require.NoError(t, sink.Close())
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Contains(t, whole[:len(whole)-1], string(b), i)
	}
	// What is not known is not touched.
	require.NoError(t, os.Remove(path+".ids"))
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = pipeline.OpenFile(path, text)
	require.ErrorContains(t, err, "no journal")
	require.NoError(t, os.WriteFile(path+".ids", []byte("something else, which is long"), 0o600))
	_, err = pipeline.OpenFile(path, text)
	require.ErrorContains(t, err, "is no journal")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))
	// A file that is shorter than the journal says has lost something.
	require.NoError(t, os.WriteFile(path+".ids", journal, 0o600))
	_, err = pipeline.OpenFile(path, text)
	require.ErrorContains(t, err, "knows of")
}

// The journal stays small where checkpoints make the sink forget, and it still knows what is not
// forgotten.
func TestFileSinkForgets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	number := func(dst []byte, n int) ([]byte, error) { return strconv.AppendInt(dst, int64(n), 10), nil }
	sink, err := pipeline.OpenFile(path, number, pipeline.Synced())
	require.NoError(t, err)
	item := func(n int) pipeline.Item[int] {
		return pipeline.Item[int]{ID: pipeline.ID{Pos: uint64(n), Part: 1, Path: strings.Repeat("1/", 5000)}, Record: n}
	}
	for i := range 500 {
		require.NoError(t, sink.Write(t.Context(), []pipeline.Item[int]{item(i)}))
		require.NoError(t, sink.Forget(uint64(max(i-3, 0))))
	}
	require.NoError(t, sink.Close())
	info, err := os.Stat(path + ".ids")
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(2<<20)) // of 5 MB
	sink, err = pipeline.OpenFile(path, number)
	require.NoError(t, err)
	defer sink.Close()
	for i := range 500 { // those that were forgotten count as there
		require.NoError(t, sink.Write(t.Context(), []pipeline.Item[int]{item(i)}))
	}
	require.EqualValues(t, 500, sink.Doubled())
}

// A run goes on where a checkpoint was saved: what was in flight then comes again, with the same ids,
// and nothing else. A sink that remembers takes all once.
func TestResume(t *testing.T) {
	onBoth(t, func(t *testing.T, driver string) {
		w := startPool(t, driver, 2)
		random := rand.New(rand.NewPCG(5, 6))
		var got collector[answer]
		sink := pipeline.Once[answer](&got)
		broken := errors.New("broken")
		var saved pipeline.Checkpoint
		for runs := 0; ; runs++ {
			l := &ledger{t: t, taken: make(map[pipeline.ID]bool), acked: lowOf(saved)}
			for i := range 3000 {
				l.records = append(l.records, record{N: i})
			}
			for i := range saved.Position {
				if !inFlight(saved, i) {
					l.taken[pipeline.ID{Pos: i}] = true
				}
			}
			left, fails := 200+random.IntN(500), runs < 8
			var mu sync.Mutex
			out := pipeline.Through(pipeline.FromSource[record](l), sum, w, pipeline.BatchBy(pipeline.Batches{Records: 20}))
			before := saved
			err := within(t, func() error {
				return out.Into(t.Context(), sinkFunc[answer](func(ctx context.Context, items []pipeline.Item[answer]) error {
					for _, item := range items {
						if item.ID.Pos < before.Position && !inFlight(before, item.ID.Pos) {
							t.Errorf("run %d: %v comes again, and was done with at %+v", runs, item.ID, before)
						}
					}
					if left -= len(items); left < 0 && fails {
						return broken
					}
					if err := l.Write(ctx, items); err != nil {
						return err
					}
					return sink.Write(ctx, items)
				}), pipeline.Resume(saved), pipeline.Save(func(_ context.Context, c pipeline.Checkpoint) error {
					mu.Lock()
					defer mu.Unlock()
					saved = c
					return nil
				}, time.Millisecond))
			})
			if !fails {
				require.NoError(t, err)
				require.Equal(t, pipeline.Checkpoint{Position: 3000}, saved)
				break
			}
			if err == nil { // it had less left
				break
			}
			require.ErrorIs(t, err, broken)
		}
		requireAll(t, got.items, 3000)
	})
}

func lowOf(c pipeline.Checkpoint) uint64 {
	if len(c.InFlight) > 0 {
		return c.InFlight[0].From
	}
	return c.Position
}

func inFlight(c pipeline.Checkpoint, pos uint64) bool {
	return slices.ContainsFunc(c.InFlight, func(s pipeline.Span) bool { return s.From <= pos && pos < s.To })
}

// Checkpoints are read as they were saved, and what makes no sense is not.
func TestCheckpointFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	c, err := pipeline.LoadCheckpoint(path)
	require.NoError(t, err)
	require.Zero(t, c)
	want := pipeline.Checkpoint{Position: 100, InFlight: []pipeline.Span{{From: 3, To: 5}, {From: 50, To: 100}}}
	for range 2 {
		require.NoError(t, pipeline.SaveTo(path)(t.Context(), want))
		c, err = pipeline.LoadCheckpoint(path)
		require.NoError(t, err)
		require.Equal(t, want, c)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)
	for _, bad := range []string{"", "{", `{"position":3,"in_flight":[{"from":2,"to":4}]}`, `{"position":9,"in_flight":[{"from":2,"to":2}]}`, `{"position":9,"in_flight":[{"from":5,"to":7},{"from":2,"to":3}]}`} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := pipeline.LoadCheckpoint(path)
		require.ErrorContains(t, err, "tandem: pipeline: load a checkpoint from "+path)
	}
}

// IDs agrees with a map, whatever is added and forgotten.
func TestIDs(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		var ids pipeline.IDs
		oracle := make(map[pipeline.ID]bool)
		var low uint64
		for range 400 {
			id := pipeline.ID{Pos: uint64(random.IntN(60))}
			if random.IntN(3) == 0 {
				id.Part, id.Path = uint64(1+random.IntN(2)), []string{"", "1"}[random.IntN(2)]
			}
			if random.IntN(40) == 0 {
				low = max(low, uint64(random.IntN(60)))
				ids.Forget(low)
			}
			known := oracle[id] || id.Pos < low
			if random.IntN(2) == 0 {
				// A plain record and parts of the same position do not occur together.
				require.Equal(t, known || passed(oracle, id, low), ids.Has(id), id)
				continue
			}
			require.Equal(t, !known && !passed(oracle, id, low), ids.Add(id), id)
			oracle[id] = true
		}
	}
	var ids pipeline.IDs
	for i := range uint64(10000) {
		require.True(t, ids.Add(pipeline.ID{Pos: i ^ 1})) // in pairs
	}
	require.Zero(t, ids.Len())
}

// passed reports whether all positions up to that of id have had their one record.
func passed(oracle map[pipeline.ID]bool, id pipeline.ID, low uint64) bool {
	for pos := low; pos <= id.Pos; pos++ {
		if !oracle[pipeline.ID{Pos: pos}] {
			return false
		}
	}
	return true
}
