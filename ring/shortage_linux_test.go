package ring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest"
)

// From too little to enough of each resource, segments are made or refused with the
// kernel's error. A refusal leaves nothing behind, and says nothing of the system or the
// peer; nothing crashes. Each sweep has a process of its own.
func TestSegmentsUnderShortage(t *testing.T) {
	for _, resource := range []string{"files", "address space", "file size"} {
		t.Run(resource, func(t *testing.T) {
			if resource == "address space" && raceEnabled {
				t.Skip("the race detector maps more memory as it goes")
			}
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe, resource)
			cmd.Env = append(os.Environ(), helperEnv+"=shortage")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

func init() {
	helpers["shortage"] = func(args []string) {
		if err := sweep(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// sweep tries with a limit from too low to high enough.
func sweep(what string) error {
	const ringSize = 64 << 20
	var resource int
	var want unix.Errno
	var limits []func() uint64
	switch what {
	case "files":
		resource, want = unix.RLIMIT_NOFILE, unix.EMFILE
		for free := range 6 {
			limits = append(limits, func() uint64 { return drivertest.FilesFor(free) })
		}
	case "address space":
		resource, want = unix.RLIMIT_AS, unix.ENOMEM
		// What Go may map for itself meanwhile comes on top.
		for more := uint64(32 << 20); more < 32<<20+5*ringSize; more += 32 << 20 {
			limits = append(limits, func() uint64 { return drivertest.AddressSpace() + more })
		}
	case "file size":
		resource, want = unix.RLIMIT_FSIZE, unix.EFBIG
		for _, size := range []uint64{0, MinSize, ringSize, ringSize + ControlSize - 1, ringSize + ControlSize, 2 * ringSize} {
			limits = append(limits, func() uint64 { return size })
		}
	}
	base := drivertest.NewBaseline()
	refused, made := 0, 0
	for _, limit := range limits {
		var err error
		limit := limit()
		if err := drivertest.UnderLimit(resource, limit, func() { err = makeAndUse(ringSize) }); err != nil {
			return err
		}
		switch {
		case err == nil:
			made++
		case !errors.Is(err, want):
			return fmt.Errorf("%s limited to %d: %w, want %w", what, limit, err, want)
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
