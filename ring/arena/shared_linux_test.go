package arena

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ring/sealed"
)

const faulted = 7 // the exit code of a helper that was refused a write

// Another process that has the descriptor reads a block where it lies, and cannot write it;
// nor can this one, but by the arena's own mapping.
func TestOthersReadAndDoNotWrite(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	for _, n := range []int{5000, 3 * maxSmall} {
		first, err := a.Alloc(n)
		require.NoError(t, err)
		b, err := a.Alloc(n)
		require.NoError(t, err)
		copy(b.Bytes(), "contents")
		r := b.Region()
		require.NotZero(t, r.ID())
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(exe, strconv.Itoa(r.Size()), strconv.Itoa(b.Offset()))
		cmd.Env = append(os.Environ(), helperEnv+"=vandal")
		cmd.ExtraFiles = []*os.File{r.File()}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, string(out))
		require.Equal(t, faulted, exit.ExitCode(), string(out))
		require.NoError(t, vandalize(r.File(), r.Size()))
		require.Equal(t, "contents", string(b.Bytes()[:8]))
		b.Free()
		first.Free()
	}
}

// vandalize tries to write, and returns an error if something worked.
func vandalize(f *os.File, size int) error {
	fd := int(f.Fd())
	if _, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		return errors.New("it can be mapped to be written")
	}
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err == nil {
		return errors.New("it can be written")
	}
	if unix.Ftruncate(fd, 0) == nil || unix.Ftruncate(fd, int64(size)*2) == nil {
		return errors.New("its size can be changed")
	}
	if unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size)) == nil {
		return errors.New("its memory can be taken away")
	}
	return nil
}

func init() {
	helpers["vandal"] = func(args []string) {
		size, _ := strconv.Atoi(args[0])
		offset, _ := strconv.Atoi(args[1])
		f := os.NewFile(3, "region")
		m, err := sealed.Open(f, size, size)
		if err == nil && string(m.Bytes()[offset:offset+8]) != "contents" {
			err = errors.New("the block is not where it should be")
		}
		if err := errors.Join(err, vandalize(f, size)); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		debug.SetPanicOnFault(true)
		defer func() {
			if recover() != nil {
				os.Exit(faulted)
			}
		}()
		m.Bytes()[offset] = 0
	}
}

// Of a region that was given back neither descriptor nor mapping is left, and OnDrop has
// been called while both were there.
func TestRegionsAreGivenBack(t *testing.T) {
	base := leaktest.NewBaseline()
	a := New(Options{Idle: -1})
	dropped := make(map[uint64]int)
	a.OnDrop(func(r *Region) {
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(int(r.File().Fd()), &st))
		require.EqualValues(t, r.Size(), st.Size)
		dropped[r.ID()]++
		a.Stats() // may be called
	})
	seen := make(map[uint64]int)
	for range 3 {
		var blocks []*Block
		for _, n := range []int{100, maxSmall, maxSmall, maxSmall, maxSmall, maxSmall, 2 * maxSmall, 30 * maxSmall} {
			b, err := a.Alloc(n)
			require.NoError(t, err)
			blocks = append(blocks, b)
			seen[b.Region().ID()] = 1
		}
		require.Equal(t, 4, mappings(t))
		regions := a.Stats().Regions
		require.Equal(t, 4, regions)
		r := blocks[0].Region()
		for _, b := range blocks {
			b.Free()
		}
		require.Equal(t, regions, a.Stats().Regions)
		a.Trim()
		require.Zero(t, a.Stats().Regions)
		require.Zero(t, mappings(t))
		require.Empty(t, base.Leaks())
		require.Nil(t, r.File())
		require.NotZero(t, r.ID())
	}
	require.Equal(t, seen, dropped)
	require.Len(t, dropped, 12, "numbers were used again")
	require.NoError(t, a.Close())
}

// mappings counts those of arenas.
func mappings(t *testing.T) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	return bytes.Count(maps, []byte("memfd:tandem-arena"))
}

// rss returns how much of an arena's mappings this process has touched.
func rss(t *testing.T) (kb int) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	ours := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case !strings.HasSuffix(fields[0], ":"):
			ours = strings.Contains(lines.Text(), "memfd:tandem-arena")
		case ours && fields[0] == "Rss:":
			n, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			kb += n
		}
	}
	return kb
}

// Nobody touches the pages of a block but its holder; and what a block held, it holds.
func TestBlocksAreNotTouched(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	for _, n := range []int{maxSmall, 64 << 20} {
		b, err := a.Alloc(n)
		require.NoError(t, err)
		require.Zero(t, rss(t))
		b.Free()
		again, err := a.Alloc(n)
		require.NoError(t, err)
		require.Same(t, b, again)
		require.Zero(t, rss(t))
		copy(again.Bytes(), "contents")
		require.NotZero(t, rss(t))
		again.Free()
		b, err = a.Alloc(n)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(b.Bytes(), []byte("contents")))
		b.Free()
		a.Trim()
	}

	touched := New(Options{Prefault: true})
	defer touched.Close()
	b, err := touched.Alloc(2 << 20)
	require.NoError(t, err)
	require.Equal(t, 2<<10, rss(t))
	b.Free()
}

func TestHugePages(t *testing.T) {
	a := New(Options{HugePages: true, Limit: 5 << 20})
	defer a.Close()
	require.EqualValues(t, 6<<20, a.Stats().Limit)
	for _, n := range []int{100, 3 << 20} {
		b, err := a.Alloc(n)
		if err != nil {
			require.ErrorIs(t, err, sealed.ErrNoHugePages)
			require.Zero(t, a.Stats().Reserved)
			continue
		}
		require.Zero(t, b.Region().Size()%(2<<20))
		b.Bytes()[n-1] = 1
		b.Free()
		a.Trim()
	}
}
