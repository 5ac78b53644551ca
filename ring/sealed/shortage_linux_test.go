package sealed_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers/drivertest"
	"github.com/tandemipc/tandem/ring/sealed"
)

// From too little to enough of each resource, memory is made or refused with the kernel's
// error. A refusal leaves nothing behind, and nothing crashes. Each sweep has a process of
// its own.
func TestShortage(t *testing.T) {
	for _, resource := range []string{"files", "address space", "file size"} {
		t.Run(resource, func(t *testing.T) {
			if resource == "address space" && sealed.RaceEnabled {
				t.Skip("the race detector maps more memory as it goes")
			}
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe, resource)
			cmd.Env = append(os.Environ(), sealed.HelperEnv+"=shortage")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

func init() {
	sealed.Helpers["shortage"] = func(args []string) {
		if err := sweep(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// sweep tries with a limit from too low to high enough.
func sweep(what string) error {
	const size = 64 << 20
	contents := make([]byte, size)
	var resource int
	var want unix.Errno
	var limits []func() uint64
	switch what {
	case "files":
		resource, want = unix.RLIMIT_NOFILE, unix.EMFILE
		for free := range 4 {
			limits = append(limits, func() uint64 { return drivertest.FilesFor(free) })
		}
	case "address space":
		resource, want = unix.RLIMIT_AS, unix.ENOMEM
		// What Go may map for itself meanwhile comes on top.
		for more := uint64(32 << 20); more < 32<<20+5*size; more += 32 << 20 {
			limits = append(limits, func() uint64 { return drivertest.AddressSpace() + more })
		}
	case "file size":
		resource, want = unix.RLIMIT_FSIZE, unix.EFBIG
		for _, limit := range []uint64{0, 4096, sealed.AllocateStep, size - 1, size, 2 * size} {
			limits = append(limits, func() uint64 { return limit })
		}
	}
	base := drivertest.NewBaseline()
	for _, make := range []func() (*sealed.Memory, error){
		func() (*sealed.Memory, error) { return sealed.Create("test", size) },
		func() (*sealed.Memory, error) { return sealed.CreateFrozen("test", contents) },
	} {
		refused, made := 0, 0
		for _, limit := range limits {
			var err error
			limit := limit()
			if err := drivertest.UnderLimit(resource, limit, func() { err = makeAndOpen(make) }); err != nil {
				return err
			}
			switch {
			case err == nil:
				made++
			case !errors.Is(err, want):
				return fmt.Errorf("%s limited to %d: %w, want %w", what, limit, err, want)
			case errors.Is(err, sealed.ErrUnsupported), errors.Is(err, sealed.ErrSeals):
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

func makeAndOpen(make func() (*sealed.Memory, error)) error {
	ours, err := make()
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := sealed.Open(ours.File(), 1, 1<<30)
	if err != nil {
		return err
	}
	return theirs.Close()
}
