package suite

import (
	"encoding/binary"
	"fmt"
)

// Tally is what a sink has got.
type Tally struct {
	Messages, Bytes uint64
	// Sum of the numbers that messages begin with, modulo 2^64.
	Sum uint64
	// Bad are messages whose end does not fit their beginning.
	Bad uint64
}

// Add counts a message that Stamp has stamped.
func (t *Tally) Add(message []byte) {
	t.Messages++
	t.Bytes += uint64(len(message))
	n := len(message)
	if n < 8 {
		return
	}
	seq := binary.LittleEndian.Uint64(message)
	t.Sum += seq
	if n >= 16 && binary.LittleEndian.Uint64(message[n-8:]) != ^seq {
		t.Bad++
	}
}

// Stamp numbers a message.
func Stamp(message []byte, seq uint64) {
	n := len(message)
	if n >= 8 {
		binary.LittleEndian.PutUint64(message, seq)
	}
	if n >= 16 {
		binary.LittleEndian.PutUint64(message[n-8:], ^seq)
	}
}

// Expect returns the tally of messages 0 to n-1 of size bytes.
func Expect(size int, n uint64) Tally {
	t := Tally{Messages: n, Bytes: n * uint64(size)}
	switch {
	case size < 8:
	case n%2 == 0:
		t.Sum = n / 2 * (n - 1)
	default:
		t.Sum = (n - 1) / 2 * n
	}
	return t
}

func (t Tally) String() string {
	return fmt.Sprintf("%d messages of %d bytes together, numbers adding up to %d, %d bad", t.Messages, t.Bytes, t.Sum, t.Bad)
}

// Encode returns the fields one after the other, for where there is no codec.
func (t *Tally) Encode() []byte {
	var b []byte
	for _, x := range []uint64{t.Messages, t.Bytes, t.Sum, t.Bad} {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}
