package drivers_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
)

// Files of which one blocks wait for it, and nobody waits for them, until there are too many: then the link ends. When they
// can be closed all are.
func TestHeldFilesThatCannotBeClosed(t *testing.T) {
	var held drivers.HeldFiles
	before := leaktest.Descriptors()
	blocked, release := leaktest.Lingering(t)
	var a ipc.Attachments
	require.NoError(t, held.TakeFile(&a, drivers.Handle{Number: 1, Region: drivers.FileRegion}, blocked, nil))
	a.Release()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	a = ipc.Attachments{}
	require.NoError(t, held.TakeFile(&a, drivers.Handle{Number: 2, Region: drivers.FileRegion}, w, nil))
	a.Release()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "it waits behind the one that blocks")
	for range drivers.MaxHeldFiles + 10 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Skip("this process may not have as many files: ", err)
		}
		held.Discard(f)
	}
	err = held.Room()
	require.ErrorIs(t, err, ipc.ErrProtocol)
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	require.ErrorIs(t, held.TakeFile(&a, drivers.Handle{Number: 3, Region: drivers.FileRegion}, f, nil), ipc.ErrProtocol)
	release()
	require.Eventually(t, func() bool { return held.Room() == nil }, time.Minute, time.Millisecond, "there is room again")
	require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = r.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, r.Close())
	require.Eventually(t, func() bool { return leaktest.Descriptors()[os.DevNull] == before[os.DevNull] }, time.Minute, time.Millisecond)
}
