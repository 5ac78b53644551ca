package suite

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type numberPair [2]uint64 // number and check

// received is what ReceiveItems makes of items, after which end comes.
func received(items []numberPair, end error) (uint64, error) {
	return ReceiveItems(func() (number, check uint64, err error) {
		if len(items) == 0 {
			return 0, 0, end
		}
		first := items[0]
		items = items[1:]
		return first[0], first[1], nil
	})
}

func TestItemsArrive(t *testing.T) {
	var sent []numberPair
	require.NoError(t, SendItems(time.Millisecond, func(number, check uint64) error {
		sent = append(sent, numberPair{number, check})
		return nil
	}))
	require.Greater(t, len(sent), ClockEvery)
	n, err := received(sent, io.EOF)
	require.NoError(t, err)
	require.EqualValues(t, len(sent)-1, n)
}

// Whatever is lost, doubled, swapped or changed is noticed.
func TestItemsNotice(t *testing.T) {
	sent := []numberPair{{0, ^uint64(0)}, {1, ^uint64(1)}, {2, ^uint64(2)}, {3, 3}}
	n, err := received(sent, io.EOF)
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	for i := range sent {
		_, err := received(slices.Delete(slices.Clone(sent), i, i+1), io.EOF)
		require.ErrorIs(t, err, ErrGarbled, "without %d", i)
		_, err = received(slices.Insert(slices.Clone(sent), i, sent[i]), io.EOF)
		require.ErrorIs(t, err, ErrGarbled, "%d twice", i)
		if i > 0 {
			swapped := slices.Clone(sent)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			_, err = received(swapped, io.EOF)
			require.ErrorIs(t, err, ErrGarbled, "%d before its time", i)
		}
		for j := range 2 {
			changed := slices.Clone(sent)
			changed[i][j] ^= 1 << 40
			_, err = received(changed, io.EOF)
			require.ErrorIs(t, err, ErrGarbled, "%d changed", i)
		}
	}
	own := errors.New("own")
	for n := range len(sent) + 1 {
		_, err := received(sent[:n], own)
		require.Equal(t, own, err, "an error after %d items", n)
	}
	require.Equal(t, own, SendItems(time.Hour, func(number, _ uint64) error {
		if number == 100 {
			return own
		}
		return nil
	}))
}

func TestItemNumbers(t *testing.T) {
	for _, size := range []int{ItemLeast, 64, 1000} {
		item := make([]byte, size)
		PutNumbers(item, 7, ^uint64(7))
		number, check, err := Numbers(item, size)
		require.NoError(t, err)
		require.Equal(t, []uint64{7, ^uint64(7)}, []uint64{number, check})
		for _, other := range []int{0, size - 1, size + 1} {
			_, _, err = Numbers(make([]byte, other), size)
			require.ErrorIs(t, err, ErrGarbled)
		}
	}
}
