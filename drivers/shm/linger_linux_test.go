package shm

import (
	"os"

	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/drivertest/leaktest"
	"github.com/tandemipc/tandem/ipc"
)

// Whatever a peer passes, and in whatever record, closing it is nobody's business but that of a goroutine of its own: the
// lock of the control socket is free meanwhile, and the link can be closed.
func TestCloseOfWhatIsPassedBlocks(t *testing.T) {
	records := map[string]func(t *testing.T, from *link, f *os.File){
		"a file that is dropped": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlFile, 0, 0, f))
			from.dropFiles([]uint32{0})
		},
		"a file that no frame names": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlFile, 0, 0, f))
		},
		"a file of a wrong number": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlFile, 7, 0, f))
		},
		"a region": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlRegion, 0, 4096, f))
		},
		"a region of no size": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlRegion, 0, 0, f))
		},
		"acks": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlAcks, 0, acksSize, f))
		},
		"a record that takes none": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlFileDropped, 0, 0, f))
		},
		"a frame that names it wrongly": func(t *testing.T, from *link, f *os.File) {
			require.NoError(t, from.sendControl(t.Context(), controlFile, 0, 0, f))
			h := drivers.Handle{Number: 1, Region: drivers.FileRegion, Offset: 1}
			require.NoError(t, from.Send(t.Context(), &drivers.Frame{Kind: drivers.KindNotify, Handles: h.Append(nil)}))
		},
	}
	for name, pass := range records {
		t.Run(name, func(t *testing.T) {
			from, to := linked(t)
			f, release := leaktest.Lingering(t)
			defer release()
			pass(t, from, f)
			require.NoError(t, f.Close()) // the last one is on its way
			drops := name == "a file that is dropped"
			if drops {
				require.Eventually(t, func() bool {
					from.out.mu.Lock()
					defer from.out.mu.Unlock()
					return !from.out.dropping
				}, 30*time.Second, time.Millisecond)
			}
			var frame drivers.Frame
			_, err := to.Next(&frame)
			require.True(t, err == nil || name == "a frame that names it wrongly", "%v", err)
			to.in.mu.Lock()
			to.catchUp(nil)
			to.in.mu.Unlock()
			if end := to.end.Load(); end != nil {
				require.ErrorIs(t, *end, ipc.ErrProtocol)
			} else {
				require.True(t, drops || name == "a file that no frame names")
			}
			require.NoError(t, to.Close())
		})
	}
}
