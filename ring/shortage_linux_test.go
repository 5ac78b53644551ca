package ring

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
)

// From too little to enough of each resource, segments are made or refused with the
// kernel's error. A refusal leaves nothing behind, and says nothing of the system or the
// peer; nothing crashes. Each sweep has a process of its own.
func TestSegmentsUnderShortage(t *testing.T) {
	leaktest.Shortages(t, helperEnv, raceEnabled)
}

func init() { helpers["shortage"] = leaktest.SweepHelper(sweep) }

// sweep tries with a limit from too low to high enough.
func sweep(what string) error {
	const ringSize = 64 << 20
	short := leaktest.ShortageOf(what, 6, 32<<20, 5*ringSize, 0, MinSize, ringSize, ringSize+ControlSize-1, ringSize+ControlSize, 2*ringSize)
	base := leaktest.NewBaseline()
	refused, made := 0, 0
	for _, limit := range short.Limits {
		var err error
		limit := limit()
		if err := leaktest.UnderLimit(short.Resource, limit, func() { err = makeAndUse(ringSize) }); err != nil {
			return err
		}
		switch {
		case err == nil:
			made++
		case !errors.Is(err, short.Want):
			return fmt.Errorf("%s limited to %d: %w, want %w", what, limit, err, short.Want)
		case errors.Is(err, ErrUnsupported), errors.Is(err, ErrLayout), errors.Is(err, ErrSeals), errors.Is(err, ErrCorrupt):
			return fmt.Errorf("%s limited to %d: an error of a wrong class: %w", what, limit, err)
		default:
			refused++
		}
		if leaks := base.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("%s limited to %d: left: %v", what, limit, leaks)
		}
		if err := makeAndUse(MinSize); err != nil {
			return fmt.Errorf("after the shortage: %w", err)
		}
	}
	if refused == 0 || made == 0 {
		return fmt.Errorf("%s: %d refused and %d made: the sweep has missed the border", what, refused, made)
	}
	return nil
}

// makeAndUse makes two segments, opens each as a peer does, and sends a record.
func makeAndUse(size int) error {
	if err := Supported(); err != nil {
		return err
	}
	ours, err := Create(size)
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := Create(size)
	if err != nil {
		return err
	}
	defer theirs.Close()
	fromUs, err := Open(ours.File())
	if err != nil {
		return err
	}
	defer fromUs.Close()
	fromThem, err := Open(theirs.File())
	if err != nil {
		return err
	}
	defer fromThem.Close()
	p, _, err := Join(ours.Bytes(), fromThem.Bytes())
	if err != nil {
		return err
	}
	_, c, err := Join(theirs.Bytes(), fromUs.Bytes())
	if err != nil {
		return err
	}
	if err := p.Write(1, []byte("record")); err != nil {
		return err
	}
	if r, ok, err := c.Next(); err != nil || !ok || string(r.Data) != "record" {
		return fmt.Errorf("read %q, %v, %w", r.Data, ok, err)
	}
	return nil
}
