package arena

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ring/sealed"
)

// A system that is short of something refuses a block with its own error, but not before
// what is idle was given back to it; nothing is accounted for that is not there.
func TestShortageGivesIdleMemoryBack(t *testing.T) {
	short := errors.New("short")
	sizes := []int{100, 10 << 10, maxSmall, 5 << 20, 20 << 20}
	for _, first := range sizes {
		for _, second := range sizes {
			if classOrSize(first) == classOrSize(second) {
				continue
			}
			t.Run(fmt.Sprint(first, second), func(t *testing.T) {
				there, tried := 0, 0
				withMemory(t, func(name string, size int, opts ...sealed.Option) (*sealed.Memory, error) {
					tried++
					if there >= 2 {
						return nil, short
					}
					there++
					return sealed.Create(name, size, opts...)
				})
				a := New(Options{Limit: 100 << 20, Idle: -1})
				a.OnDrop(func(*Region) { there-- })
				defer a.Close()

				// With one region in use and one idle, there is room for another one.
				kept, err := a.Alloc(40 << 20)
				require.NoError(t, err)
				idle, err := a.Alloc(first)
				require.NoError(t, err)
				idle.Free()
				b, err := a.Alloc(second)
				require.NoError(t, err)

				// With two in use, there is none.
				before := a.Stats()
				tried = 0
				_, err = a.Alloc(30 << 20)
				require.Same(t, short, err)
				require.Equal(t, 1, tried, "tried again, though nothing was given back")
				require.Equal(t, before.Reserved, a.Stats().Reserved)
				require.Equal(t, before.Blocks, a.Stats().Blocks)
				b.Free()
				b, err = a.Alloc(30 << 20)
				require.NoError(t, err)
				b.Free()
				kept.Free()
				a.Trim()
				require.Zero(t, a.Stats().Reserved)
				require.Zero(t, there)
			})
		}
	}
}

func classOrSize(n int) int {
	if n > maxSmall {
		return n
	}
	return classOf(n)
}

// From too little to enough of each resource, blocks are made or refused with the kernel's
// error, and nothing is left. Each sweep has a process of its own.
func TestShortage(t *testing.T) {
	leaktest.Shortages(t, helperEnv, raceEnabled)
}

func init() { helpers["shortage"] = leaktest.SweepHelper(sweep) }

// sweep tries with a limit from too low to high enough.
func sweep(what string) error {
	const large = 64 << 20
	short := leaktest.ShortageOf(what, 5, 16<<20, 3*large, 0, regionSize-1, regionSize, large-1, large, 2*large)
	base := leaktest.NewBaseline()
	refused, made := 0, 0
	for _, limit := range short.Limits {
		a := New(Options{})
		limit := limit()
		var errs [3]error
		if err := leaktest.UnderLimit(short.Resource, limit, func() {
			for i, n := range []int{100, large, maxSmall} {
				var b *Block
				if b, errs[i] = a.Alloc(n); b != nil {
					defer b.Free()
					b.Bytes()[n-1] = 1
				}
			}
		}); err != nil {
			return err
		}
		for _, err := range errs {
			switch {
			case err == nil:
				made++
			case !errors.Is(err, short.Want) || errors.Is(err, ErrFull):
				return fmt.Errorf("%s limited to %d: %w, want %w", what, limit, err, short.Want)
			default:
				refused++
			}
		}
		a.Trim()
		if st := a.Stats(); st.Reserved != 0 || st.Blocks != 0 {
			return fmt.Errorf("%s limited to %d: left: %+v", what, limit, st)
		}
		b, err := a.Alloc(large)
		if err != nil {
			return fmt.Errorf("after the shortage: %w", err)
		}
		b.Free()
		if err := a.Close(); err != nil {
			return err
		}
		if leaks := base.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("%s limited to %d: left: %v", what, limit, leaks)
		}
	}
	if refused == 0 || made == 0 {
		return fmt.Errorf("%s: %d refused and %d made: the sweep has missed the border", what, refused, made)
	}
	return nil
}
