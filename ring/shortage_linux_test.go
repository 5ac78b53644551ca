package ring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// forgetSupport makes the next call of Supported try again.
func forgetSupport() {
	support.Lock()
	defer support.Unlock()
	support.known, support.err = false, nil
}

// Whatever a system call answers: what cannot change is remembered and means that the
// system cannot do it, and anything else is neither.
func TestSupportedRemembersWhatIsFinal(t *testing.T) {
	oldMemfd, oldFcntl := sysMemfdCreate, sysFcntl
	t.Cleanup(func() {
		sysMemfdCreate, sysFcntl = oldMemfd, oldFcntl
		forgetSupport()
	})
	for _, call := range []struct {
		name     string
		fail     func(unix.Errno)
		isFinal  map[unix.Errno]bool
		ofCreate string
	}{
		{"memfd_create", func(errno unix.Errno) {
			sysMemfdCreate = func(string, int) (int, error) { return -1, errno }
		}, map[unix.Errno]bool{unix.ENOSYS: true, unix.EPERM: true, unix.EACCES: true, unix.EINVAL: true}, "cannot make shared memory"},
		{"fcntl", func(errno unix.Errno) {
			sysFcntl = func(uintptr, int, int) (int, error) { return -1, errno }
		}, map[unix.Errno]bool{unix.EINVAL: true}, "cannot seal shared memory"},
	} {
		for _, errno := range errnos() {
			t.Run(call.name+" "+errno.Error(), func(t *testing.T) {
				forgetSupport()
				call.fail(errno)
				for range 2 {
					err := Supported()
					require.Error(t, err)
					require.Equal(t, call.isFinal[errno], errors.Is(err, ErrUnsupported), "%v", err)
					_, created := Create(MinSize)
					require.Equal(t, call.isFinal[errno], errors.Is(created, ErrUnsupported), "%v", created)
					if !call.isFinal[errno] {
						require.ErrorIs(t, err, errno)
						require.ErrorIs(t, created, errno)
						require.ErrorContains(t, created, call.ofCreate)
					}
				}
				sysMemfdCreate, sysFcntl = oldMemfd, oldFcntl
				if call.isFinal[errno] {
					require.ErrorIs(t, Supported(), ErrUnsupported)
				} else {
					require.NoError(t, Supported())
				}
			})
		}
	}
	forgetSupport()
	require.NoError(t, Supported())
	sysMemfdCreate = func(string, int) (int, error) { return -1, unix.EMFILE }
	require.NoError(t, Supported(), "success is final")
}

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
	resource, want := unix.RLIMIT_NOFILE, unix.EMFILE
	limits := func() (all []uint64) {
		for free := range uint64(6) {
			all = append(all, limitFor(free))
		}
		return all
	}
	switch what {
	case "address space":
		resource, want = unix.RLIMIT_AS, unix.ENOMEM
		limits = func() (all []uint64) {
			// What Go may map for itself meanwhile comes on top.
			for more := uint64(32 << 20); more < 32<<20+5*ringSize; more += 32 << 20 {
				all = append(all, addressSpace()+more)
			}
			return all
		}
	case "file size":
		resource, want = unix.RLIMIT_FSIZE, unix.EFBIG
		limits = func() (all []uint64) {
			for size := uint64(0); size <= 2*ringSize; size += ringSize / 4 {
				all = append(all, size)
			}
			return append(all, ringSize+ControlSize-1, ringSize+ControlSize)
		}
	}
	// Go opens the descriptors of its poller when it first needs them.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	r.Close()
	w.Close()
	var old unix.Rlimit
	if err := unix.Getrlimit(resource, &old); err != nil {
		return err
	}
	files, mapped := len(numbers()), segmentsMapped()
	refused, made := 0, 0
	for _, limit := range limits() {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			return err
		}
		err := makeAndUse(ringSize)
		if err := unix.Setrlimit(resource, &old); err != nil {
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
		if now := len(numbers()); now != files {
			return fmt.Errorf("%s limited to %d: %d descriptors, %d before", what, limit, now, files)
		}
		if now := segmentsMapped(); now != mapped {
			return fmt.Errorf("%s limited to %d: %d segments are mapped, %d before", what, limit, now, mapped)
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

// numbers returns the numbers of this process's descriptors.
func numbers() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var open []string
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil { // not the one that read the directory
				open = append(open, e.Name())
			}
		}
	}
	return open
}

// limitFor returns the limit of open files that leaves so many numbers free.
func limitFor(free uint64) (limit uint64) {
	open := numbers()
	for ; free > 0 || slices.Contains(open, strconv.FormatUint(limit, 10)); limit++ {
		if !slices.Contains(open, strconv.FormatUint(limit, 10)) {
			free--
		}
	}
	return limit
}

func addressSpace() uint64 {
	b, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseUint(strings.Fields(string(b))[0], 10, 64)
	return pages * uint64(os.Getpagesize())
}

func segmentsMapped() int {
	b, _ := os.ReadFile("/proc/self/maps")
	return strings.Count(string(b), "tandem-ring")
}
