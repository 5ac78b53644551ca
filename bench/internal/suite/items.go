package suite

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/tandemipc/tandem/bench/internal/measure"
)

// Items of streams have a number and a check at their ends: the complement of the number, or
// in the last item, which says how many others there were, the number again.

// ItemLeast is the smallest size of items.
const ItemLeast = 16

// SendItems sends numbered items for d, and the last one.
func SendItems(d time.Duration, send func(number, check uint64) error) error {
	start := measure.Now()
	var n uint64
	for n == 0 || measure.Now()-start < d {
		for range ClockEvery {
			if err := send(n, ^n); err != nil {
				return err
			}
			n++
		}
	}
	return send(n, n)
}

// ReceiveItems receives what SendItems has sent, up to io.EOF, and returns how many items that
// were, without the last one.
func ReceiveItems(receive func() (number, check uint64, err error)) (n uint64, err error) {
	for {
		number, check, err := receive()
		switch {
		case err == io.EOF:
			return n, fmt.Errorf("%w: the stream has ended after %d items, without the last one", ErrGarbled, n)
		case err != nil:
			return n, err
		case number != n || check != ^n && check != n:
			return n, fmt.Errorf("%w: item %d has the number %d and the check %#x", ErrGarbled, n, number, check)
		case check == n:
			if _, _, err := receive(); err == nil {
				return n, fmt.Errorf("%w: an item follows the last one", ErrGarbled)
			} else if err != io.EOF {
				return n, err
			}
			return n, nil
		}
		n++
	}
}

// PutNumbers puts the number and the check into an item of bytes.
func PutNumbers(item []byte, number, check uint64) {
	binary.LittleEndian.PutUint64(item, number)
	binary.LittleEndian.PutUint64(item[len(item)-8:], check)
}

// Numbers returns what PutNumbers has put into an item of size bytes.
func Numbers(item []byte, size int) (number, check uint64, err error) {
	if len(item) != size {
		return 0, 0, fmt.Errorf("%w: an item of %d bytes in the place of %d", ErrGarbled, len(item), size)
	}
	return binary.LittleEndian.Uint64(item), binary.LittleEndian.Uint64(item[size-8:]), nil
}
