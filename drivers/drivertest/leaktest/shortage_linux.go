package leaktest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Shortages runs the test binary again for each resource that a process can be short of, in a process of
// its own, with the resource as its argument and env set to shortage. There [SweepHelper] has to be
// what runs. raced says that the race detector is on, which maps more memory as it goes.
func Shortages(t *testing.T, env string, raced bool) {
	for _, resource := range []string{"files", "address space", "file size"} {
		t.Run(resource, func(t *testing.T) {
			if resource == "address space" && raced {
				t.Skip("the race detector maps more memory as it goes")
			}
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe, resource)
			cmd.Env = append(os.Environ(), env+"=shortage")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

// SweepHelper is what a process of [Shortages] does: sweep tries with the limits of a [Shortage] of the
// resource that is its argument.
func SweepHelper(sweep func(resource string) error) func(args []string) {
	return func(args []string) {
		if err := sweep(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// Shortage is a resource with limits from too low to high enough.
type Shortage struct {
	Resource int             // for [UnderLimit]
	Want     unix.Errno      // what the kernel says if it is too low
	Limits   []func() uint64 // each is asked for when its turn comes
}

// ShortageOf returns the shortage of a resource of [Shortages]: of so many free files and fewer, of address space
// by steps up to most, or of the sizes that a file may have.
func ShortageOf(resource string, files int, step, most uint64, sizes ...uint64) (s Shortage) {
	switch resource {
	case "files":
		s.Resource, s.Want = unix.RLIMIT_NOFILE, unix.EMFILE
		for free := range files {
			s.Limits = append(s.Limits, func() uint64 { return FilesFor(free) })
		}
	case "address space":
		s.Resource, s.Want = unix.RLIMIT_AS, unix.ENOMEM
		const own = 32 << 20 // what Go may map for itself meanwhile
		for more := uint64(own); more < own+most; more += step {
			s.Limits = append(s.Limits, func() uint64 { return AddressSpace() + more })
		}
	case "file size":
		s.Resource, s.Want = unix.RLIMIT_FSIZE, unix.EFBIG
		for _, size := range sizes {
			s.Limits = append(s.Limits, func() uint64 { return size })
		}
	}
	return s
}
