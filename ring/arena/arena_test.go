package arena

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSizesOfBlocks(t *testing.T) {
	eachMemory(t, func(t *testing.T) {
		a := New(Options{Limit: 8 << 20})
		defer a.Close()
		for _, n := range []int{0, 1, 63, 64, 65, maxSmall - 1, maxSmall, maxSmall + 1, 8 << 20} {
			b, err := a.Alloc(n)
			require.NoError(t, err, "%d bytes", n)
			require.Equal(t, n, len(b.Bytes()))
			require.Equal(t, n, cap(b.Bytes()))
			for _, x := range b.Bytes() {
				if x != 0 {
					t.Fatal("fresh memory is not zero")
				}
			}
			b.Free()
		}
		for _, n := range []int{8<<20 + 1, 1 << 30, math.MaxInt} {
			_, err := a.Alloc(n)
			require.ErrorIs(t, err, ErrTooLarge)
			require.ErrorContains(t, err, "and the limit is 8388608")
		}
		for _, n := range []int{-1, math.MinInt} {
			_, err := a.Alloc(n)
			require.ErrorContains(t, err, "tandem: arena: a block of -")
		}
		tiny := New(Options{Limit: 1})
		defer tiny.Close()
		require.EqualValues(t, unit, tiny.Stats().Limit)
		b, err := tiny.Alloc(unit)
		require.NoError(t, err)
		b.Free()
		_, err = tiny.Alloc(unit + 1)
		require.ErrorIs(t, err, ErrTooLarge)
		vast := New(Options{Limit: math.MaxInt64})
		defer vast.Close()
		b, err = vast.Alloc(2 << 20)
		require.NoError(t, err)
		b.Free()
	})
}

func TestFreeTwicePanics(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	for _, n := range []int{1, maxSmall, maxSmall + 1} {
		b, err := a.Alloc(n)
		require.NoError(t, err)
		b.Free()
		before := a.Stats()
		require.PanicsWithValue(t, "tandem: arena: a block was freed twice", b.Free)
		require.Panics(t, func() { _ = b.Bytes() }, "memory of a free block")
		require.Equal(t, before.Blocks, a.Stats().Blocks)
		again, err := a.Alloc(n) // no lock is held
		require.NoError(t, err)
		require.Same(t, b, again)
		again.Free()
	}
}

// A block of one class is as good as all that others do not use.
func TestLimitIsForAllClasses(t *testing.T) {
	eachMemory(t, func(t *testing.T) {
		const limit = 8 << 20
		m := newModel(t, Options{Limit: limit, Idle: -1})
		sizes := []int{unit, 8 << 20, 96 << 10, maxSmall, 1000, 2 << 20, 4096, 3 << 20}
		for range 2 {
			for _, n := range sizes {
				for m.alloc(n) == nil {
				}
				st := m.a.Stats()
				require.Equal(t, len(m.blocks), st.Blocks)
				// Each class that divides the limit gets at all of it.
				if limit%n == 0 {
					require.Equal(t, limit/n, st.Blocks, "blocks of %d bytes", n)
				}
				_, err := m.a.Alloc(n)
				require.Equal(t, ErrFull, err)
				m.verify()
				for len(m.blocks) > 0 {
					m.free(len(m.blocks) - 1)
				}
			}
		}
		require.NoError(t, m.a.Close())
		m.verify()
	})
}

// Of idle large blocks the smallest that is not too large is used again, and nothing else
// makes way for a new one but what was idle for longest.
func TestLargeBlocksAreUsedAgain(t *testing.T) {
	a := New(Options{Limit: 40 << 20, Idle: -1})
	defer a.Close()
	var regions []*slab
	var blocks []*Block
	for _, n := range []int{10 << 20, 11 << 20, 12 << 20} {
		b, err := a.Alloc(n)
		require.NoError(t, err)
		regions = append(regions, b.slab)
		blocks = append(blocks, b)
	}
	for _, i := range []int{1, 2, 0} {
		blocks[i].Free()
		a.setClock(a.now(), -1) // they are freed at different times
	}
	use := func(n int) *slab {
		b, err := a.Alloc(n)
		require.NoError(t, err)
		defer b.Free()
		return b.slab
	}
	require.Same(t, regions[0], use(9<<20))
	require.Same(t, regions[0], use(10<<20))
	require.Same(t, regions[1], use(10<<20+1))
	require.Same(t, regions[2], use(12<<20))
	require.EqualValues(t, 33<<20, a.Stats().Reserved)

	a.setClock(a.now(), -1)
	for _, i := range []int{1, 2, 0} { // the times again
		b, err := a.Alloc(regions[i].size)
		require.NoError(t, err)
		b.Free()
		a.setClock(a.now(), -1)
	}
	use(7 << 20) // there is room
	require.EqualValues(t, 40<<20, a.Stats().Reserved)
	use(13 << 20) // 11 and 12 go
	st := a.Stats()
	require.EqualValues(t, (10+7+13)<<20, st.Reserved)
	require.Equal(t, 3, st.Regions)
	require.Same(t, regions[0], use(10<<20))
}

func TestWarmAllocationsAreFree(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	for _, n := range []int{0, 64, 4096, maxSmall, 10 << 20} {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			b, err := a.Alloc(n)
			if err != nil {
				t.Error(err)
				return
			}
			b.Free()
		}))
	}
}

// Goroutines that allocate, write, look at what they have written, and free each other's,
// while others trim and count: everything is accounted for in the end.
func TestConcurrentUse(t *testing.T) {
	eachMemory(t, func(t *testing.T) {
		a := New(Options{Limit: 24 << 20, Idle: 2 * time.Millisecond})
		type filled struct {
			b    *Block
			fill byte
		}
		passed := make(chan filled, 64)
		check := func(f filled) {
			if bytes.Count(f.b.Bytes(), []byte{f.fill}) != len(f.b.Bytes()) {
				t.Error("others have written to a block")
			}
			f.b.Free()
		}
		turns := make(chan struct{}, 1) // for trimming, now and then
		var users sync.WaitGroup
		for g := range 4 {
			users.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(g)))
				for i := range 3000 {
					n := r.IntN(300)
					switch r.IntN(20) {
					case 0:
						n = r.IntN(2 * maxSmall)
					case 1, 2, 3:
						n = r.IntN(20 << 10)
					}
					b, err := a.Alloc(n)
					if err != nil {
						if !errors.Is(err, ErrFull) {
							t.Error(err)
						}
						continue
					}
					f := filled{b, byte(i*4 + g)}
					copy(b.Bytes(), bytes.Repeat([]byte{f.fill}, n))
					if i%10 == 0 {
						select {
						case turns <- struct{}{}:
						default:
						}
					}
					select {
					case passed <- f:
					default:
						check(f)
					}
					if r.IntN(3) == 0 {
						select {
						case f := <-passed:
							check(f)
						default:
						}
					}
				}
			})
		}
		var others sync.WaitGroup
		others.Go(func() {
			for range turns {
				a.Trim()
				if st := a.Stats(); st.Reserved > st.Limit || st.Reserved < 0 {
					t.Errorf("%d bytes reserved", st.Reserved)
				}
			}
		})
		users.Wait()
		close(turns)
		others.Wait()
		require.Equal(t, len(passed), a.Stats().Blocks)
		// Half is freed before Close, the rest after.
		for range len(passed) / 2 {
			check(<-passed)
		}
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		require.Equal(t, len(passed), a.Stats().Blocks)
		for len(passed) > 0 {
			check(<-passed)
		}
		st := a.Stats()
		require.Zero(t, st.Blocks)
		require.Zero(t, st.Reserved)
		require.Zero(t, st.Asked)
	})
}

// Allocation and Close at the same time: what was handed out is good until it is freed.
func TestCloseWhileOthersAllocate(t *testing.T) {
	eachMemory(t, func(t *testing.T) {
		for i := range 50 {
			a := New(Options{Limit: 16 << 20})
			var users sync.WaitGroup
			for g := range 3 {
				users.Go(func() {
					for {
						b, err := a.Alloc([]int{100, maxSmall, 2 * maxSmall}[g])
						if err == ErrFull {
							continue
						}
						if err != nil {
							if err != ErrClosed {
								t.Error(err)
							}
							return
						}
						b.Bytes()[0] = 1
						b.Free()
					}
				})
			}
			for a.Stats().Reserved == 0 && i%2 == 0 {
			}
			require.NoError(t, a.Close())
			users.Wait()
			require.Zero(t, a.Stats().Reserved)
		}
	})
}
