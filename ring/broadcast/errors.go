package broadcast

import (
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ring"
)

var (
	// ErrFull reports that a record does not fit at the moment: a reliable reader has not
	// read enough, or too much is appended that is not published.
	ErrFull = ring.ErrFull

	// ErrTooLarge is matched by every [*ring.SizeError].
	ErrTooLarge = ring.ErrTooLarge

	// ErrCorrupt is matched by every [*ring.CorruptError].
	ErrCorrupt = ring.ErrCorrupt

	// ErrLayout reports a segment or a size that this package does not accept: wrong magic,
	// version, geometry, alignment or start.
	ErrLayout = ring.ErrLayout

	// ErrSeals reports a descriptor whose memory somebody could still write, resize or
	// reopen, so that it must not be mapped.
	ErrSeals = ring.ErrSeals

	// ErrUnsupported reports that this system lacks what sealed shared memory needs.
	ErrUnsupported = ring.ErrUnsupported

	// ErrCutOff is what a [Reader] returns, for good, when the writer no longer rings for it
	// or waits for it: because the reader was too slow or its words made no sense, or by
	// [Peer.Remove]. Up to there a reliable reader has missed nothing.
	ErrCutOff = errors.New("tandem: broadcast: the writer has cut this reader off")

	// ErrLeft is what [Peer.Err] returns when the reader has been closed.
	ErrLeft = errors.New("tandem: broadcast: the reader has left")

	// ErrRemoved is what [Peer.Err] returns after [Peer.Remove] or [Writer.Close].
	ErrRemoved = errors.New("tandem: broadcast: the reader was removed")

	// ErrTooManyReaders reports that a writer serves [MaxReaders] already.
	ErrTooManyReaders = errors.New("tandem: broadcast: too many readers")

	// ErrSameReader reports a reader's segment that the writer serves already.
	ErrSameReader = errors.New("tandem: broadcast: the reader was added before")

	// ErrClosed reports the use of a [Writer] that was closed.
	ErrClosed = errors.New("tandem: broadcast: the writer is closed")
)

// A SlowError says that a writer has cut a reliable reader off because it was too slow.
type SlowError struct {
	// Lag is how many bytes it was behind.
	Lag uint64
	// Waited is for how long the writer had waited for it; 0 if it was cut off for its lag.
	Waited time.Duration
}

func (e *SlowError) Error() string {
	if e.Waited == 0 {
		return fmt.Sprintf("tandem: broadcast: reader cut off %d bytes behind", e.Lag)
	}
	return fmt.Sprintf("tandem: broadcast: reader cut off %d bytes behind, after %v", e.Lag, e.Waited)
}

func corrupt(pos uint64, format string, args ...any) error {
	return &ring.CorruptError{Position: pos, Detail: fmt.Sprintf(format, args...)}
}
