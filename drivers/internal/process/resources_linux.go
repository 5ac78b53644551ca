package process

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/drivers"
)

// allowance is what the kernel counts as a program's memory though Go only maps it
// and hardly touches it, in bytes: tables and arenas of the heap (some 40 MiB), and,
// for a program with cgo, a C stack for each thread.
func allowance(r drivers.Resources) uint64 {
	const heap, stack, threads, threadsEach = 64 << 20, 8 << 20, 16, 2
	return heap + stack*uint64(threads+threadsEach*processors(r))
}

// bound sets the limits of a process that has just been started. Its program may
// run already, but has not said hello.
func bound(pid int, r drivers.Resources) error {
	if r.Memory > 0 {
		// Not RLIMIT_AS, which counts the gigabyte of addresses that every Go
		// program reserves, and shared memory.
		if err := setLimit(pid, "memory", unix.RLIMIT_DATA, uint64(r.Memory)+allowance(r)); err != nil {
			return err
		}
	}
	if r.Files > 0 {
		if err := setLimit(pid, "open files", unix.RLIMIT_NOFILE, uint64(r.Files)); err != nil {
			return err
		}
	}
	if r.NoCoreDumps {
		return setLimit(pid, "core dumps", unix.RLIMIT_CORE, 0)
	}
	return nil
}

// boundAgain is called when the worker has said hello. As it starts, Go raises its
// limit of open files to the largest that it has seen, which may be from before bound.
func boundAgain(pid int, r drivers.Resources) error {
	if r.Files == 0 {
		return nil
	}
	var now unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return fmt.Errorf("tandem: read the worker's limit of open files: %w", os.NewSyscallError("prlimit", err))
	}
	if now.Max <= uint64(r.Files) {
		return nil
	}
	return bound(pid, drivers.Resources{Files: r.Files})
}

func setLimit(pid int, what string, resource int, n uint64) error {
	if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
		return fmt.Errorf("tandem: limit the worker's %s to %d: %w", what, n, os.NewSyscallError("prlimit", err))
	}
	return nil
}

// nextCPU spreads bounded workers over the processors.
var nextCPU atomic.Uint32

// onCPUs runs f while the calling thread may use only n of the processors that
// this process may use. A process that f starts inherits that.
func onCPUs(n int, f func()) error {
	if n == 0 {
		f()
		return nil
	}
	var all, some unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	var cpus []int
	for i := 0; len(cpus) < all.Count(); i++ {
		if all.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	n = min(n, len(cpus))
	last := nextCPU.Add(uint32(n))
	for i := range uint32(n) {
		some.Set(cpus[(last-i)%uint32(len(cpus))])
	}
	if err := unix.SchedSetaffinity(0, &some); err != nil {
		return fmt.Errorf("tandem: bind the worker to %d of %d processors: %w", n, len(cpus), os.NewSyscallError("sched_setaffinity", err))
	}
	// The kernel changes a thread's set itself if one gets forbidden.
	defer func() { _ = unix.SchedSetaffinity(0, &all) }()
	f()
	return nil
}
