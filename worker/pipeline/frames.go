package pipeline

import (
	"encoding/binary"
	"fmt"
)

// Records travel as frames: the length in four bytes, then the encoded record. The highest bit of
// the length says, in an answer, that what follows is an error instead.
const (
	frameHeader = 4
	frameFailed = 1 << 31
	maxFrame    = frameFailed - 1
)

// frame is a record in a request or an answer.
type frame struct {
	body   []byte
	failed bool
}

// appendFrame appends a record.
func appendFrame(dst, body []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...)
}

// openFrame appends room for the header of a frame whose body is appended next.
func openFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// closeFrame writes the header of the frame that began at start and ends at the end of b.
func closeFrame(b []byte, start int, failed bool) error {
	n := len(b) - start - frameHeader
	if n > maxFrame {
		return fmt.Errorf("tandem: pipeline: a record of %d bytes, the most is %d", n, maxFrame)
	}
	header := uint32(n)
	if failed {
		header |= frameFailed
	}
	binary.LittleEndian.PutUint32(b[start:], header)
	return nil
}

// nextFrame returns the first frame of b and what follows it. ok is false if b is malformed.
func nextFrame(b []byte) (f frame, rest []byte, ok bool) {
	if len(b) < frameHeader {
		return f, nil, false
	}
	header := binary.LittleEndian.Uint32(b)
	n := int(header &^ frameFailed)
	if b = b[frameHeader:]; n > len(b) {
		return f, nil, false
	}
	return frame{b[:n:n], header&frameFailed != 0}, b[n:], true
}

// splitFrames returns the frames of b, of which there have to be n.
func splitFrames(b []byte, n int) ([]frame, error) {
	all := make([]frame, 0, n)
	for len(b) > 0 {
		f, rest, ok := nextFrame(b)
		if !ok {
			return nil, errMalformed
		}
		all, b = append(all, f), rest
	}
	if len(all) != n {
		return nil, fmt.Errorf("%w: %d records in the answer to %d", errMalformed, len(all), n)
	}
	return all, nil
}

// allWell reports whether b has n frames, none of which failed.
func allWell(b []byte, n int) bool {
	for ; len(b) > 0; n-- {
		if len(b) < frameHeader {
			return false
		}
		header := binary.LittleEndian.Uint32(b)
		if header > uint32(len(b)-frameHeader) { // which failures are, too
			return false
		}
		b = b[frameHeader+int(header):]
	}
	return n == 0
}
