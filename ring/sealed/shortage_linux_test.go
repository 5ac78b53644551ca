package sealed

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// From too little to enough of each resource, memory is made or refused with the kernel's
// error. A refusal leaves nothing behind, and nothing crashes. Each sweep has a process of
// its own.
func TestShortage(t *testing.T) {
	leaktest.Shortages(t, helperEnv, raceEnabled)
}

func init() { helpers["shortage"] = leaktest.SweepHelper(sweep) }

// sweep tries with a limit from too low to high enough.
func sweep(what string) error {
	const size = 64 << 20
	contents := make([]byte, size)
	short := leaktest.ShortageOf(what, 4, 32<<20, 5*size, 0, 4096, allocateStep, size-1, size, 2*size)
	base := leaktest.NewBaseline()
	for _, make := range []func() (*Memory, error){
		func() (*Memory, error) { return Create("test", size) },
		func() (*Memory, error) { return CreateFrozen("test", contents) },
	} {
		refused, made := 0, 0
		for _, limit := range short.Limits {
			var err error
			limit := limit()
			if err := leaktest.UnderLimit(short.Resource, limit, func() { err = makeAndOpen(make) }); err != nil {
				return err
			}
			switch {
			case err == nil:
				made++
			case !errors.Is(err, short.Want):
				return fmt.Errorf("%s limited to %d: %w, want %w", what, limit, err, short.Want)
			case errors.Is(err, ErrUnsupported), errors.Is(err, ErrSeals):
				return fmt.Errorf("%s limited to %d: an error of a wrong class: %w", what, limit, err)
			default:
				refused++
			}
			if leaks := base.Leaks(); len(leaks) > 0 {
				return fmt.Errorf("%s limited to %d: left: %v", what, limit, leaks)
			}
		}
		if refused == 0 || made == 0 {
			return fmt.Errorf("%s: %d refused and %d made: the sweep has missed the border", what, refused, made)
		}
	}
	return nil
}

func makeAndOpen(make func() (*Memory, error)) error {
	ours, err := make()
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := Open(ours.File(), 1, 1<<30)
	if err != nil {
		return err
	}
	return theirs.Close()
}
