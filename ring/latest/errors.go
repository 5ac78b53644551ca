package latest

import "errors"

var (
	// ErrLayout reports memory or sizes that this package does not accept: wrong magic,
	// version, geometry, length or alignment.
	ErrLayout = errors.New("tandem: latest: bad layout")

	// ErrSize reports a slice that is not as long as the value is.
	ErrSize = errors.New("tandem: latest: wrong size")

	// ErrCorrupt reports words that no correct writer stores, in this order.
	ErrCorrupt = errors.New("tandem: latest: corrupt")

	// ErrOvertaken reports that the writer has been too fast for each of the tries of one
	// [Reader.Load]. The next one may succeed.
	ErrOvertaken = errors.New("tandem: latest: the value changes faster than it can be read")
)
