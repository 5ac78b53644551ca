package worker

import "fmt"

// The options here bound what a worker's process may use. They hold for each
// process that a client starts. On Linux the host sets them as soon as the process
// exists, and they are in force when Spawn returns; they hold for each child
// of the worker, too. On another system an option that cannot be kept makes the start
// fail with an error that wraps [ipc.ErrUnsupported]. A limit that the host may not
// set, such as more open files than it may have itself, makes it fail as well.

// WithMaxMemory bounds the worker's memory, in bytes. The variable GOMEMLIMIT makes Go's
// collector keep below 90 % of it.
//
// On Linux the kernel also refuses the worker private memory beyond bytes and an
// allowance (RLIMIT_DATA). The allowance is for what a Go program maps and hardly uses:
// 64 MiB, and 8 MiB for each of 16 threads and of two more for each processor. Shared
// memory, such as that of rings and files, does not count. If the kernel refuses memory,
// Go ends the worker: its [ExitError] has exit code 2, as after a panic, and Stderr has
// "fatal error: runtime: out of memory" or the like.
//
// On other systems there is only GOMEMLIMIT, which a program can exceed. An entry of
// GOMEMLIMIT in the command's Env takes precedence over this option; one that is only in
// the host's own environment does not. Programs built for the race detector need some
// 400 MiB more. WithMaxMemory panics unless bytes is positive.
func WithMaxMemory(bytes int64) Option {
	mustBePositive("WithMaxMemory", bytes)
	return func(s *Settings) { s.resources.Memory = bytes }
}

// WithMaxCPU bounds how many processors the worker uses at a time, by the variable
// GOMAXPROCS. On Linux it also binds the worker, before that runs, to n of the processors
// that the host may use; each worker gets the next n of them in turn. An entry of
// GOMAXPROCS in the command's Env takes precedence over the variable; one that is only
// in the host's own environment does not. WithMaxCPU panics unless n is positive.
func WithMaxCPU(n int) Option {
	mustBePositive("WithMaxCPU", int64(n))
	return func(s *Settings) { s.resources.CPUs = n }
}

// WithMaxFiles bounds how many descriptors the worker can have (RLIMIT_NOFILE): for
// files, connections, pipes, and about sixteen that Go and this library need. With too few
// to serve, the start fails with [ipc.ErrExhausted], or with an [*ExitError] if Go itself
// could not start. It is for Linux only. It panics unless n is positive.
func WithMaxFiles(n int) Option {
	mustBePositive("WithMaxFiles", int64(n))
	return func(s *Settings) { s.resources.Files = n }
}

// WithoutCoreDumps keeps the kernel from writing a core file when the worker is ended
// by a signal that asks for one (RLIMIT_CORE). It is for Linux only.
func WithoutCoreDumps() Option { return func(s *Settings) { s.resources.NoCoreDumps = true } }

func mustBePositive(option string, n int64) {
	if n <= 0 {
		panic(fmt.Sprintf("tandem: %s(%d): need a positive number", option, n))
	}
}
