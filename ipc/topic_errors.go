package ipc

import (
	"errors"
	"fmt"
)

// ErrCutOff is what ends the sequence of a [Reliable] subscriber that the publisher has waited for
// for too long: see [CutOffAfter]. The records that the publisher had sent before come first.
var ErrCutOff = errors.New("tandem: cut off: the publisher has waited too long for this subscriber")

func init() { RegisterError("tandem.ErrCutOff", ErrCutOff) }

// A LostError says that a subscriber has missed records, since it was too slow for the publisher. It stands
// in their place: the records before it and after it are there, and the sequence goes on.
type LostError struct {
	// Topic is the name of the topic.
	Topic string
	// Count is how many records are missing, exactly.
	Count uint64
}

func (e *LostError) Error() string {
	return fmt.Sprintf("tandem: %d records of topic %q are lost: the subscriber was too slow for the publisher", e.Count, e.Topic)
}
