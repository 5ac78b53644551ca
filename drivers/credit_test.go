package drivers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
)

func TestCredit(t *testing.T) {
	b := drivers.AppendCredit(nil, 1, 1<<40)
	require.Equal(t, "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00", string(b))
	requests, notifications, err := drivers.ParseCredit(b)
	require.NoError(t, err)
	require.EqualValues(t, 1, requests)
	require.Equal(t, uint64(1<<40), notifications)
	for n := range 40 {
		if _, _, err := drivers.ParseCredit(make([]byte, n)); n != len(b) {
			require.ErrorIs(t, err, ipc.ErrProtocol, "%d bytes", n)
		}
	}
	require.ErrorIs(t, drivers.Agree(hello(), withWindow(drivers.MinWindow-1)), ipc.ErrProtocol)
	require.NoError(t, drivers.Agree(hello(), withWindow(drivers.MinWindow)))
}

func withWindow(n int) drivers.Hello {
	h := hello()
	h.Window = n
	return h
}
