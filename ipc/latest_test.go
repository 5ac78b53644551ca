package ipc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/latest"
	"github.com/tandemipc/tandem/ring/sealed"
)

// checked is a value whose words fit together.
type checked struct {
	N     uint64
	Words [100]uint64
	Sum   uint64
}

func newChecked(n uint64) checked {
	c := checked{N: n, Sum: n}
	for i := range c.Words {
		c.Words[i] = n * (0x9e3779b97f4a7c15 + uint64(2*i))
		c.Sum += c.Words[i]
	}
	return c
}

func needSealed(tb testing.TB) {
	tb.Helper()
	if err := sealed.Supported(); err != nil {
		tb.Skip(err)
	}
}

func newLatest[T any](tb testing.TB) (*ipc.Latest[T], *ipc.LatestReader[T]) {
	tb.Helper()
	needSealed(tb)
	l, err := ipc.NewLatest[T]()
	require.NoError(tb, err)
	tb.Cleanup(func() { l.Close() })
	r, err := ipc.OpenLatest[T](l.File())
	require.NoError(tb, err)
	tb.Cleanup(func() { r.Close() })
	return l, r
}

func testLatest[T comparable](t *testing.T, values ...T) {
	t.Run(fmt.Sprintf("%T", *new(T)), func(t *testing.T) {
		l, r := newLatest[T](t)
		v, version, err := r.Load()
		require.NoError(t, err)
		require.Zero(t, v)
		require.Zero(t, version)
		for i, want := range values {
			require.NoError(t, l.Store(want))
			late, err := ipc.OpenLatest[T](l.File())
			require.NoError(t, err)
			for _, r := range []*ipc.LatestReader[T]{r, late} {
				v, version, err := r.Load()
				require.NoError(t, err)
				require.EqualValues(t, i+1, version)
				require.Equal(t, version, r.Version())
				require.True(t, want == v)
			}
			require.NoError(t, late.Close())
		}
	})
}

func TestLatest(t *testing.T) {
	testLatest(t, uint8(1), 2, 255, 0)
	testLatest(t, math.Pi, math.Inf(1), -0.5)
	testLatest(t, [3]byte{1, 2, 3}, [3]byte{4, 5, 6})
	testLatest(t, [5]int16{1, 2, 3, 4, 5})
	testLatest(t, newChecked(7), newChecked(8))
	testLatest(t, [10000]complex64{9999: 1 + 2i}, [10000]complex64{0: 3})
}

func TestLatestRefusesTypes(t *testing.T) {
	refused := func(err error, because string) {
		t.Helper()
		require.ErrorContains(t, err, because)
		require.ErrorContains(t, err, "tandem: ")
	}
	_, err := ipc.NewLatest[string]()
	refused(err, "string")
	_, err = ipc.NewLatest[*int]()
	refused(err, "ptr")
	_, err = ipc.NewLatest[bool]()
	refused(err, "bool")
	_, err = ipc.NewLatest[struct {
		A uint8
		B uint64
	}]()
	refused(err, "padding")
	_, err = ipc.NewLatest[struct{}]()
	require.ErrorIs(t, err, latest.ErrLayout)
	_, err = ipc.NewLatest[[latest.MaxSize + 1]byte]()
	require.ErrorIs(t, err, latest.ErrLayout)
	_, err = ipc.OpenLatest[[]byte](os.Stdin)
	refused(err, "slice")
}

// What is opened as something that it is not is an error, and leaves nothing mapped.
func TestOpenOther(t *testing.T) {
	needSealed(t)
	base := drivertest.NewBaseline()
	l, err := ipc.NewLatest[uint64]()
	require.NoError(t, err)
	_, err = ipc.OpenLatest[int64](l.File())
	require.ErrorIs(t, err, latest.ErrLayout, "another kind of word")
	_, err = ipc.OpenLatest[[2]uint64](l.File())
	require.ErrorIs(t, err, latest.ErrLayout, "another size")
	_, err = ipc.OpenCounters(l.File())
	require.ErrorIs(t, err, latest.ErrLayout)
	c, err := ipc.NewCounters(4)
	require.NoError(t, err)
	_, err = ipc.OpenLatest[uint64](c.File())
	require.ErrorIs(t, err, latest.ErrLayout)
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	_, err = ipc.OpenLatest[uint64](f)
	require.ErrorIs(t, err, sealed.ErrSeals)
	_, err = ipc.OpenCounters(f)
	require.ErrorIs(t, err, sealed.ErrSeals)
	for _, f := range []interface{ Close() error }{l, c, f} {
		require.NoError(t, f.Close())
	}
	require.Empty(t, base.Leaks())
}

// A writer that is not ours cannot do more than store what it likes.
func TestHostileLatest(t *testing.T) {
	needSealed(t)
	l, err := ipc.NewLatest[uint64]()
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.Store(5))
	honest, err := sealed.Open(l.File(), 1, 1<<20)
	require.NoError(t, err)
	defer honest.Close()
	const writing, latestAt = 0x80, 0x88 // as ring/latest/layout.go draws them
	require.EqualValues(t, 1, honest.Bytes()[writing])
	require.EqualValues(t, 1, honest.Bytes()[latestAt])
	for _, words := range [][2]byte{{0, 1}, {3, 1}, {200, 1}, {1, 200}} {
		m, err := sealed.Create("hostile", len(honest.Bytes()))
		require.NoError(t, err)
		copy(m.Bytes(), honest.Bytes())
		m.Bytes()[writing], m.Bytes()[latestAt] = words[0], words[1]
		r, err := ipc.OpenLatest[uint64](m.File())
		require.NoError(t, err)
		v, _, err := r.Load()
		require.ErrorIs(t, err, latest.ErrCorrupt, "%v", words)
		require.Zero(t, v)
		require.NoError(t, r.Close())
		require.NoError(t, m.Close())
	}
}

// Goroutines that store or load while others close get a value or ErrClosed.
func TestCloseLatestInUse(t *testing.T) {
	needSealed(t)
	for range 20 {
		l, err := ipc.NewLatest[checked]()
		require.NoError(t, err)
		r, err := ipc.OpenLatest[checked](l.File())
		require.NoError(t, err)
		var users sync.WaitGroup
		var stored, loaded atomic.Bool
		for range 2 {
			users.Go(func() {
				for n := uint64(1); ; n++ {
					err := l.Store(newChecked(n))
					if err != nil {
						if err != ipc.ErrClosed {
							t.Error(err)
						}
						return
					}
					stored.Store(true)
				}
			})
			users.Go(func() {
				for {
					v, _, err := r.Load()
					if err != nil {
						if err != ipc.ErrClosed {
							t.Error(err)
						}
						return
					}
					if v != newChecked(v.N) {
						t.Errorf("torn: %d", v.N)
						return
					}
					loaded.Store(true)
				}
			})
		}
		for !stored.Load() || !loaded.Load() {
			runtime.Gosched()
		}
		require.NoError(t, l.Close())
		require.NoError(t, r.Close())
		runtime.GC()
		users.Wait()
		require.NoError(t, l.Close())
		require.NoError(t, r.Close())
		require.Nil(t, l.File())
		require.Zero(t, r.Version())
		_, _, err = r.Next(t.Context(), 0)
		require.ErrorIs(t, err, ipc.ErrClosed)
	}
}

// The memory of what is closed is given back, and that of what is forgotten, too.
func TestSharedStateIsGivenBack(t *testing.T) {
	needSealed(t)
	for _, closed := range []bool{true, false} {
		for areas(t) > 0 { // of other tests
			runtime.GC()
			runtime.Gosched()
		}
		base := drivertest.NewBaseline()
		func() {
			l, err := ipc.NewLatest[uint64]()
			require.NoError(t, err)
			r, err := ipc.OpenLatest[uint64](l.File())
			require.NoError(t, err)
			c, err := ipc.NewCounters(3)
			require.NoError(t, err)
			cr, err := ipc.OpenCounters(c.File())
			require.NoError(t, err)
			c.Add(2, 1)
			require.NoError(t, l.Store(cr.Load(2)))
			v, _, err := r.Load()
			require.NoError(t, err)
			require.EqualValues(t, 1, v)
			require.Equal(t, 4, areas(t))
			if closed {
				for _, x := range []interface{ Close() error }{l, r, c, cr} {
					require.NoError(t, x.Close())
				}
			}
		}()
		require.Empty(t, base.Leaks())
		require.Zero(t, areas(t))
	}
}

// areas counts how often memory of a Latest or Counters is mapped.
func areas(t *testing.T) int {
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return bytes.Count(maps, []byte("memfd:tandem-latest")) + bytes.Count(maps, []byte("memfd:tandem-counters"))
}

func TestNext(t *testing.T) {
	l, r := newLatest[uint64](t)
	ctx, cancel := context.WithCancel(t.Context())
	var got []uint64
	done := make(chan error)
	read := make(chan uint64)
	go func() {
		var version uint64
		for {
			var v uint64
			var err error
			if v, version, err = r.Next(ctx, version); err != nil {
				done <- err
				return
			}
			read <- v
		}
	}()
	for n := uint64(1); n <= 20; n++ {
		require.NoError(t, l.Store(n*n))
		got = append(got, <-read)
		require.Equal(t, n*n, got[n-1])
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	_, _, err := r.Next(ctx, r.Version()+1)
	require.NoError(t, err, "what is there comes before the end of the context")
	go func() {
		_, _, err := r.Next(context.Background(), r.Version())
		done <- err
	}()
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-done, ipc.ErrClosed)
}

func TestLatestDoesNotAllocate(t *testing.T) {
	l, r := newLatest[checked](t)
	v := newChecked(3)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		l.Store(v)
		r.Load()
		r.Version()
	}))
}

// helper starts the test binary as another process that gets a file, and waits until it has
// opened it.
func helper(t *testing.T, name string, f *os.File) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd, stderr = exec.Command(exe), new(bytes.Buffer)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	if err != nil {
		cmd.Wait()
		t.Fatal(err, stderr.String())
	}
	return cmd, stderr
}

const lastValue = math.MaxUint64

func init() {
	// latest loads until it finds the last value.
	helpers["latest"] = func() error {
		f := os.NewFile(3, "latest")
		r, err := ipc.OpenLatest[checked](f)
		if err != nil {
			return err
		}
		defer r.Close()
		f.Close()
		fmt.Println("open")
		for {
			v, version, err := r.Load()
			switch {
			case err != nil:
				return err
			case v != newChecked(v.N) && version != 0:
				return fmt.Errorf("torn: %d", v.N)
			case v.N != version && v.N != lastValue:
				return fmt.Errorf("value %d with version %d", v.N, version)
			case v.N == lastValue:
				return nil
			}
		}
	}
	// counters reads until the first counter has its last value.
	helpers["counters"] = func() error {
		r, err := ipc.OpenCounters(os.NewFile(3, "counters"))
		if err != nil {
			return err
		}
		defer r.Close()
		if r.Len() != 2 {
			return fmt.Errorf("%d counters", r.Len())
		}
		fmt.Println("open")
		var counts []uint64
		for {
			counts = r.Snapshot(counts[:0])
			switch {
			case counts[0] == lastValue:
				return nil
			case counts[0] > counts[1]:
				return fmt.Errorf("%d finished of %d", counts[0], counts[1])
			}
		}
	}
}

// beside starts helpers with a file, does work many times while they run, and then end, which
// ends them.
func beside(t *testing.T, name string, f *os.File, work, end func()) {
	t.Helper()
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range 2 {
		cmd, out := helper(t, name, f)
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for range 200_000 {
		work()
	}
	end()
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait(), outs[i].String())
	}
}

func TestLatestInProcesses(t *testing.T) {
	l, _ := newLatest[checked](t)
	n := uint64(0)
	beside(t, "latest", l.File(), func() {
		n++
		if err := l.Store(newChecked(n)); err != nil {
			panic(err)
		}
	}, func() { require.NoError(t, l.Store(newChecked(lastValue))) })
}

func TestCountersInProcesses(t *testing.T) {
	needSealed(t)
	c, err := ipc.NewCounters(2)
	require.NoError(t, err)
	defer c.Close()
	beside(t, "counters", c.File(), func() {
		c.Add(1, 1)
		c.Add(0, 1)
	}, func() { c.Store(0, lastValue) })
}

func TestCounters(t *testing.T) {
	needSealed(t)
	for _, opts := range [][]ipc.CountersOption{nil, {ipc.WithPackedCounters()}} {
		c, err := ipc.NewCounters(5, opts...)
		require.NoError(t, err)
		r, err := ipc.OpenCounters(c.File())
		require.NoError(t, err)
		require.Equal(t, 5, c.Len())
		require.Equal(t, 5, r.Len())
		require.EqualValues(t, 7, c.Add(4, 7))
		c.Store(1, 3)
		for _, counts := range [][]uint64{c.Snapshot(nil), r.Snapshot(nil)} {
			require.Equal(t, []uint64{0, 3, 0, 0, 7}, counts)
		}
		require.EqualValues(t, 7, c.Load(4))
		require.Panics(t, func() { r.Load(5) })
		require.Panics(t, func() { c.Add(-1, 1) })
		require.NoError(t, c.Close())
		require.Nil(t, c.File())
		require.Zero(t, c.Add(4, 1))
		c.Store(4, 1)
		require.Zero(t, c.Load(4))
		require.EqualValues(t, 7, r.Load(4), "readers keep the last counts")
		require.NoError(t, r.Close())
		require.Zero(t, r.Load(4))
		require.Zero(t, r.Len())
		require.Empty(t, r.Snapshot(nil))
	}
	for _, n := range []int{-1, 0, latest.MaxCounters + 1} {
		_, err := ipc.NewCounters(n)
		require.ErrorIs(t, err, latest.ErrLayout)
	}
}

func TestSharedStateIsUnsupported(t *testing.T) {
	err := sealed.Supported()
	if err == nil {
		t.Skip("it is supported here")
	}
	_, err = ipc.NewLatest[uint64]()
	require.True(t, errors.Is(err, ipc.ErrUnsupported) && errors.Is(err, sealed.ErrUnsupported), err)
	_, err = ipc.NewCounters(1)
	require.ErrorIs(t, err, ipc.ErrUnsupported)
}
