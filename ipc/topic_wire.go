package ipc

import (
	"encoding/binary"
	"fmt"
)

// A subscription is a stream in both directions whose items are these, all numbers little endian:
//
//	request   subscriber   version, start, flags: a byte each
//	begin     publisher    0, next, snapshot, form, position: 8 bytes each
//	record    publisher    its number: 8 bytes, and what the codec has made of it
//	lost      subscriber   how many records it has lost so far: 8 bytes
//
// The request comes first. The publisher answers with begin, then with snapshot records whose
// numbers are below next, then with records whose numbers are not. Numbers begin with 1 and rise; those that
// are missing between next and the last one are lost.
//
// If the two processes share memory, the request may have the flag topicShares, and the file of a
// reader's segment of package ring/broadcast. If begin then has the form 1 and the file of a
// writer's segment, the records from next on come there, at position, and nothing follows the
// snapshot in the stream. The subscriber sends lost.

// topicStart says with which record a subscription begins.
type topicStart byte

const (
	fromNow topicStart = iota
	fromOldest
	fromLatest
)

const (
	topicVersion  = 1
	topicReliable = 1 << 0 // a flag, and
	topicShares   = 1 << 1
	topicFlags    = topicReliable | topicShares

	recordHeader = 8
	beginSize    = 40
)

type topicRequest struct {
	start    topicStart
	reliable bool
	shares   bool
}

func (r *topicRequest) append(dst []byte) []byte {
	flags := byte(0)
	if r.reliable {
		flags |= topicReliable
	}
	if r.shares {
		flags |= topicShares
	}
	return append(dst, topicVersion, byte(r.start), flags)
}

// parseTopicRequest takes a request apart. It may be hostile.
func parseTopicRequest(b []byte) (r topicRequest, err error) {
	if len(b) != 3 || b[0] != topicVersion || b[1] > byte(fromLatest) || b[2]&^topicFlags != 0 {
		return r, fmt.Errorf("malformed request of %d bytes (%x)", len(b), b[:min(len(b), 8)])
	}
	return topicRequest{topicStart(b[1]), b[2]&topicReliable != 0, b[2]&topicShares != 0}, nil
}

type topicBegin struct {
	next, snapshot uint64
	shared         bool
	position       uint64
}

func (g *topicBegin) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, g.next)
	dst = binary.LittleEndian.AppendUint64(dst, g.snapshot)
	form := uint64(0)
	if g.shared {
		form = 1
	}
	dst = binary.LittleEndian.AppendUint64(dst, form)
	return binary.LittleEndian.AppendUint64(dst, g.position)
}

// parseTopicBegin takes a begin apart. It may be hostile.
func parseTopicBegin(b []byte) (g topicBegin, err error) {
	if len(b) != beginSize || binary.LittleEndian.Uint64(b) != 0 {
		return g, fmt.Errorf("%w: a subscription begins with %d bytes (%x)", ErrProtocol, len(b), b[:min(len(b), 8)])
	}
	form := binary.LittleEndian.Uint64(b[24:])
	g = topicBegin{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]), form == 1, binary.LittleEndian.Uint64(b[32:])}
	if g.next == 0 || g.snapshot >= g.next {
		return g, fmt.Errorf("%w: a subscription begins at record %d, after %d others", ErrProtocol, g.next, g.snapshot)
	}
	if form > 1 || form == 0 && g.position != 0 {
		return g, fmt.Errorf("%w: a subscription has the form %d, at %d", ErrProtocol, form, g.position)
	}
	return g, nil
}

// numberOf returns the number of a record, 0 if b is none. It may be hostile.
func numberOf(b []byte) uint64 {
	if len(b) < recordHeader {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func setNumber(b []byte, n uint64) { binary.LittleEndian.PutUint64(b, n) }
