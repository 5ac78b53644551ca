//go:build linux

package shm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/sealed"
)

// FuzzHandles takes the buffers of any list of handles, twice, as a hostile peer may send it. What is
// taken lies in the regions that were passed, each in a place of its own, and the rest is an error of
// the protocol. In the end nothing is held.
func FuzzHandles(f *testing.F) {
	const size = 64 << 10
	list := func(all ...drivers.Handle) (b []byte) {
		for i := range all {
			b = all[i].Append(b)
		}
		return b
	}
	f.Add(list(drivers.Handle{Number: 1, Size: 10}, drivers.Handle{Number: 2, Place: 1, Region: 1, Offset: size}))
	f.Add(list(drivers.Handle{Number: 1, Size: 10}, drivers.Handle{Number: 1}))
	f.Add(list(drivers.Handle{Offset: 1, Size: 1<<64 - 1}))
	f.Add(list(drivers.Handle{Offset: 1<<64 - 1, Size: 2}))
	f.Add(list(drivers.Handle{Place: maxPlaces - 1, Size: size}, drivers.Handle{Place: maxPlaces}))
	f.Add(list(drivers.Handle{Region: 2}))
	f.Add(list(drivers.Handle{})[:31])
	f.Add(list(drivers.Handle{Number: 1, Region: drivers.FileRegion}, drivers.Handle{Number: 2}))
	memory, err := sealed.Create("tandem-fuzz", size)
	require.NoError(f, err)
	f.Cleanup(func() { memory.Close() })
	open := func(t *testing.T) *sealed.Memory {
		m, err := sealed.Open(memory.File(), size, size)
		require.NoError(t, err)
		return m
	}
	f.Fuzz(func(t *testing.T, handles []byte) {
		l := &link{}
		control, peer := pair(t) // on which there is nothing
		defer control.Close()
		defer peer.Close()
		l.control = control
		require.NoError(t, l.initControl())
		im := &l.imports
		im.catchUp = func(func() bool) {}
		acks, err := sealed.Create("tandem-acks", acksSize)
		require.NoError(t, err)
		im.acks, im.words = acks, sealed.Words(acks.Bytes())
		im.regions = make(map[uint32]*importedRegion)
		for i := range uint32(2) {
			im.regions[i] = &importedRegion{memory: open(t), size: size}
		}
		var taken []*ipc.Attachments
		for range 2 {
			frame := &drivers.Frame{Handles: handles}
			if err := l.detach(frame); err != nil {
				require.ErrorIs(t, err, ipc.ErrProtocol)
				require.Nil(t, frame.Attached)
				continue
			}
			taken = append(taken, frame.Attached)
			require.Len(t, frame.Attached.Buffers, len(handles)/drivers.HandleSize)
			for i, b := range frame.Attached.Buffers {
				h, _, err := drivers.NextHandle(handles[i*drivers.HandleSize:])
				require.NoError(t, err)
				require.Equal(t, h.Size, uint64(b.What.Len()))
				require.LessOrEqual(t, h.Offset+h.Size, uint64(size))
				for _, x := range b.What.Bytes() {
					require.Zero(t, x)
				}
			}
		}
		require.LessOrEqual(t, len(im.uses), maxPlaces)
		require.True(t, len(taken) < 2 || len(handles) == 0, "the places were in use")
		for _, a := range taken {
			a.Release()
		}
		require.Zero(t, im.held)
		im.close()
	})
}

// FuzzControlRecords feeds any bytes to the control socket. The link goes on or ends, by the protocol or as
// if the peer had gone, and holds nothing in the end.
func FuzzControlRecords(f *testing.F) {
	record := func(kind, index byte, size byte) []byte {
		return []byte{kind, 0, 0, 0, index, 0, 0, 0, size, 0, 0, 0, 0, 0, 0, 0}
	}
	f.Add(record(controlRegionGone, 0, 0))
	f.Add(record(controlRegion, 0, 1))
	f.Add(record(controlFileDropped, 0, 0))
	f.Add(append(record(controlAcks, 0, 0), record(99, 1, 2)...))
	f.Add(record(controlAcks, 0, 0)[:7])
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &link{gone: make(chan struct{})}
		l.endOnce.Do(func() {}) // there are no rings
		l.initBuffers()
		for len(b) >= controlRecord {
			copy(l.in.record[:], b)
			l.in.got = controlRecord
			if err := l.takeRecord(); err != nil {
				require.ErrorIs(t, err, ipc.ErrProtocol)
				break
			}
			b = b[controlRecord:]
		}
		close(l.gone)
		l.closeBuffers()
	})
}
