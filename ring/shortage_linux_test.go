package ring

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// From too little to enough of each resource, segments are made and exchanged, or refused with the
// kernel's error. A refusal leaves nothing behind, and says nothing of the system or the
// peer; nothing crashes. Each sweep has a process of its own.
func TestSegmentsUnderShortage(t *testing.T) {
	leaktest.Shortages(t, helperEnv, raceEnabled)
}

func init() { helpers["shortage"] = leaktest.SweepHelper(sweep) }

func sweep(what string) error {
	return errors.Join(
		sweepWith(what, 6, func(size int, _ error) error { return makeAndUse(size) }),
		sweepWith(what, 16, exchangeAndUse),
	)
}

// sweepWith tries with a limit from too low to high enough. use takes so many files.
func sweepWith(what string, files int, use func(ringSize int, want error) error) error {
	const ringSize = 64 << 20
	short := leaktest.ShortageOf(what, files, 32<<20, 5*ringSize, 0, MinSize, ringSize, ringSize+ControlSize-1, ringSize+ControlSize, 2*ringSize)
	base := leaktest.NewBaseline()
	refused, made := 0, 0
	for _, limit := range short.Limits {
		var err error
		limit := limit()
		if err := leaktest.UnderLimit(short.Resource, limit, func() { err = use(ringSize, short.Want) }); err != nil {
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
		if err := use(MinSize, nil); err != nil {
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

// exchangeAndUse makes both ends of a link. Under a shortage both fail: the one that is short of
// something with the kernel's error, want, and the other one since its peer is gone.
func exchangeAndUse(ringSize int, want error) error {
	a, f, err := Socketpair()
	if err != nil {
		return err
	}
	b, err := fdpass.Conn(f)
	f.Close()
	if err != nil {
		a.Close()
		return err
	}
	var links [2]*Link
	var errs [2]error
	var both sync.WaitGroup
	for i, conn := range []*net.UnixConn{a, b} {
		both.Go(func() { links[i], errs[i] = Exchange(context.Background(), conn, ringSize) })
	}
	both.Wait()
	for i, l := range links {
		if l != nil {
			errs[i] = errors.Join(errs[i], l.Close())
		}
	}
	for i := range errs { // the peer's reason is the reason
		if errors.Is(errs[i], ErrPeerGone) && errors.Is(errs[1-i], want) {
			errs[i] = nil
		}
	}
	return errors.Join(errs[:]...)
}
