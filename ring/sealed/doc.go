// Package sealed makes memory files that are safe to share with a process that is not
// trusted: their size is fixed, all of their memory is allocated, and who may write them
// is settled for good, by the kernel.
//
// There are two kinds. Memory of [Create] is written by its maker, by the mapping that
// Create has made, and by nobody else. Memory of [CreateFrozen] is written by nobody at
// all. Whoever gets the descriptor maps either with [Open], which takes nothing that could
// still shrink under its reader (that would be SIGBUS), or that anybody but the maker could
// write.
//
// A memory file has no name in any file system, and disappears with the last process that
// has it open or mapped.
package sealed

import "errors"

var (
	// ErrUnsupported reports that this system lacks what sealed memory needs. The error
	// that wraps it says what is missing.
	ErrUnsupported = errors.New("tandem: shared memory is not supported here")

	// ErrSeals reports a descriptor whose memory somebody could still write, resize or
	// seal, or that is no memory file at all.
	ErrSeals = errors.New("tandem: memory is not sealed")

	// ErrNoHugePages reports that the system has no huge pages, or none left.
	ErrNoHugePages = errors.New("tandem: no huge pages")
)
