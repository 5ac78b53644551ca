package arena

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ring/sealed"
)

// eachMemory runs a test with memory files, where there are any, and with Go's memory.
func eachMemory(t *testing.T, test func(t *testing.T)) {
	if sealed.Supported() == nil {
		t.Run("files", test)
	}
	t.Run("Go's", func(t *testing.T) {
		withMemory(t, func(string, int, ...sealed.Option) (*sealed.Memory, error) {
			return nil, fmt.Errorf("%w: says a test", sealed.ErrUnsupported)
		})
		test(t)
	})
}

// withMemory replaces createMemory for a test.
func withMemory(t *testing.T, create func(string, int, ...sealed.Option) (*sealed.Memory, error)) {
	old := createMemory
	createMemory = create
	t.Cleanup(func() { createMemory = old })
}

// model knows which blocks there are and what they hold.
type model struct {
	t       require.TestingT
	a       *Arena
	blocks  []*held
	dropped map[*Region]bool
	written byte
}

type held struct {
	b    *Block
	fill byte
	n    int
}

func newModel(t require.TestingT, o Options) *model {
	m := &model{t: t, a: New(o), dropped: make(map[*Region]bool)}
	m.a.OnDrop(func(r *Region) {
		require.False(t, m.dropped[r], "given back twice")
		require.NotNil(t, r.File(), "given back before OnDrop")
		m.dropped[r] = true
		for _, h := range m.blocks {
			require.False(t, r == h.b.Region(), "given back with a block in it")
		}
	})
	return m
}

func (m *model) alloc(n int) error {
	b, err := m.a.Alloc(n)
	if err != nil {
		return err
	}
	require.Equal(m.t, n, len(b.Bytes()))
	require.Equal(m.t, n, cap(b.Bytes()))
	require.Zero(m.t, b.Offset()%line)
	if r := b.Region(); r != nil {
		require.LessOrEqual(m.t, b.Offset()+n, r.Size())
		require.False(m.t, m.dropped[r])
	}
	m.written++
	copy(b.Bytes(), bytes.Repeat([]byte{m.written}, n))
	m.blocks = append(m.blocks, &held{b, m.written, n})
	return nil
}

func (m *model) free(i int) {
	h := m.blocks[i]
	m.check(h)
	m.blocks = slices.Delete(m.blocks, i, i+1)
	h.b.Free()
}

// check looks at all of a block.
func (m *model) check(h *held) {
	require.Equal(m.t, h.n, len(h.b.Bytes()))
	require.Equal(m.t, h.n, bytes.Count(h.b.Bytes(), []byte{h.fill}), "others have written to a block")
}

// verify compares all that can be known.
func (m *model) verify() {
	type place struct {
		region   *Region
		from, to int
	}
	var places []place
	asked, used := int64(0), int64(0)
	regions := make(map[*Region]bool)
	for _, h := range m.blocks {
		data := h.b.Bytes()
		require.Equal(m.t, h.n, len(data))
		require.True(m.t, h.n == 0 || data[0] == h.fill && data[h.n-1] == h.fill, "others have written to a block")
		asked += int64(h.n)
		size := h.b.slab.size
		require.GreaterOrEqual(m.t, size, h.n)
		used += int64(size)
		regions[h.b.slab.region] = true
		places = append(places, place{h.b.slab.region, h.b.Offset(), h.b.Offset() + size})
	}
	slices.SortFunc(places, func(p, q place) int {
		return cmp.Or(cmp.Compare(p.region.id, q.region.id), cmp.Compare(p.from, q.from))
	})
	for i, p := range places[min(1, len(places)):] {
		if before := places[i]; before.region == p.region && p.from < before.to {
			require.Fail(m.t, "blocks overlap")
		}
	}
	st := m.a.Stats()
	require.Equal(m.t, len(m.blocks), st.Blocks)
	require.Equal(m.t, asked, st.Asked)
	require.Equal(m.t, used, st.Used)
	require.Equal(m.t, st.Reserved-used, st.Free)
	require.GreaterOrEqual(m.t, st.Free, int64(0))
	require.LessOrEqual(m.t, st.Reserved, st.Limit)
	require.GreaterOrEqual(m.t, st.Regions, len(regions))

	// The units of the regions are those of slabs and those that are free.
	reserved := int64(0)
	taken := make(map[*Region]uint64)
	for i := range m.a.classes {
		c := &m.a.classes[i]
		n, blocks := 0, 0
		for _, l := range []*list{&c.partial, &c.empty} {
			for s := l.first; s != nil; s = s.next {
				require.True(m.t, l == s.list)
				n++
			}
		}
		for _, s := range c.slabs {
			require.Zero(m.t, taken[s.region]&s.units)
			taken[s.region] |= s.units
			blocks += s.used
			if s.list == nil {
				require.Equal(m.t, len(s.blocks), s.used)
				n++
			}
		}
		require.Equal(m.t, n, len(c.slabs))
		require.Equal(m.t, c.used, blocks)
	}
	for _, r := range m.a.regions {
		require.Equal(m.t, r.all, r.free|taken[r])
		require.Zero(m.t, r.free&taken[r])
		reserved += int64(r.size)
	}
	for _, s := range m.a.large.slabs {
		reserved += int64(s.size)
	}
	require.Equal(m.t, reserved, st.Reserved)
	for _, c := range st.Classes {
		require.GreaterOrEqual(m.t, c.Free, 0)
	}
}

// Whatever is allocated, freed and trimmed in whatever order: blocks never overlap, nobody
// else writes to them, a block is refused only where the limit says so, and everything is
// accounted for until the arena is closed and all is given back.
func TestModel(t *testing.T) {
	eachMemory(t, func(t *testing.T) { rapid.Check(t, checkModel) })
}

func checkModel(t *rapid.T) {
	limit := rapid.SampledFrom([]int64{1, 100 << 10, 1 << 20, 5 << 20, 9<<20 + 1, 32 << 20}).Draw(t, "limit")
	m := newModel(t, Options{Limit: limit, Idle: -time.Second})
	t.Cleanup(func() { // rapid may give up anywhere
		m.a.Close()
		for _, h := range m.blocks {
			if h.b.n >= 0 {
				h.b.Free()
			}
		}
	})
	limit = m.a.limit
	sizes := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 70<<10), rapid.IntRange(0, maxSmall+1), rapid.IntRange(maxSmall, 6<<20))
	pick := func() int { return rapid.IntRange(0, len(m.blocks)-1).Draw(t, "block") }
	t.Repeat(map[string]func(*rapid.T){
		"": func(*rapid.T) { m.verify() },
		"alloc": func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			switch err := m.alloc(n); {
			case err == nil:
			case errors.Is(err, ErrTooLarge):
				require.Greater(t, int64(n), limit)
			default:
				require.ErrorIs(t, err, ErrFull)
				require.NotEmpty(t, m.blocks, "an empty arena is full")
			}
		},
		"burst": func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			for range rapid.IntRange(2, 30).Draw(t, "count") {
				if m.alloc(n) != nil {
					break
				}
			}
		},
		"free": func(t *rapid.T) {
			if len(m.blocks) > 0 {
				m.free(pick())
			}
		},
		"free many": func(t *rapid.T) {
			for range len(m.blocks) / 2 {
				m.free(pick())
			}
		},
		"trim": func(*rapid.T) {
			m.a.Trim()
			st := m.a.Stats()
			if st.Blocks == 0 {
				require.Zero(t, st.Reserved)
				require.Zero(t, st.Regions)
			}
		},
	})
	require.NoError(t, m.a.Close())
	m.verify()
	for len(m.blocks) > 0 {
		m.free(pick())
		m.verify()
	}
	st := m.a.Stats()
	require.Zero(t, st.Reserved)
	require.Zero(t, st.Regions)
	require.Empty(t, st.Classes)
	_, err := m.a.Alloc(1)
	require.ErrorIs(t, err, ErrClosed)
}

// sharesMemory reports whether regions are memory files.
func sharesMemory() bool {
	m, err := createMemory("test", 1)
	if err != nil {
		return false
	}
	m.Close()
	return true
}
