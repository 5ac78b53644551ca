package ring

import (
	"errors"
	"fmt"

	"github.com/tandemipc/tandem/ring/sealed"
)

var (
	// ErrFull reports that a record does not fit at the moment. The consumer
	// has been asked to free space early; try again, or use
	// [Producer.WaitSpace].
	ErrFull = errors.New("tandem: ring: full")

	// ErrTooLarge is matched by every [*SizeError].
	ErrTooLarge = errors.New("tandem: ring: too large")

	// ErrCorrupt is matched by every [*CorruptError].
	ErrCorrupt = errors.New("tandem: ring: corrupt")

	// ErrLayout reports a segment or a size that this package does not
	// accept: wrong magic, version, geometry, alignment or start position.
	ErrLayout = errors.New("tandem: ring: bad segment layout")

	// ErrSeals reports a descriptor whose memory somebody could still write,
	// resize or reopen, so that it must not be mapped as a peer's segment.
	ErrSeals = sealed.ErrSeals

	// ErrUnsupported reports that this system lacks what sealed shared memory
	// needs. The error that wraps it says what is missing.
	ErrUnsupported = sealed.ErrUnsupported

	// ErrPeerGone reports that the peer of a [Link] has closed its end, or has died.
	ErrPeerGone = errors.New("tandem: ring: the peer is gone")

	// ErrClosed reports that a [Link] was closed here.
	ErrClosed = errors.New("tandem: ring: closed")

	// ErrExchange reports that the peer has sent something else than [Exchange] sends.
	ErrExchange = errors.New("tandem: ring: not what an exchange sends")
)

// A CorruptError says that the peer wrote something that no correct peer
// writes. It is sticky: every later operation on the same [Producer] or
// [Consumer] that needs the peer's words returns the same error.
type CorruptError struct {
	// Position is the stream position, in bytes, at which it was found.
	Position uint64
	// Detail names what was seen and what was expected.
	Detail string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("tandem: ring: corrupt at position %d: %s", e.Position, e.Detail)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// A SizeError says that a record or message is larger than the limit in force.
// Nothing was written.
type SizeError struct {
	// What is "record" or "message".
	What string
	// Size and Limit are payload bytes.
	Size, Limit int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("tandem: ring: %s of %d bytes, largest allowed %d", e.What, e.Size, e.Limit)
}

// Is makes errors.Is(err, ErrTooLarge) true.
func (e *SizeError) Is(target error) bool { return target == ErrTooLarge }
