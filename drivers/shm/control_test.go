//go:build linux

package shm

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/ipc"
)

// controlModel is what a receiver has to make of records.
type controlModel struct {
	waiting map[uint32]bool
	next    uint32
	broken  bool
}

// record takes a record that comes with n descriptors.
func (m *controlModel) record(kind, index uint32, size uint64, n int) {
	switch {
	case m.broken || len(m.waiting) == maxWaitingFiles: // it is not read
	case kind == controlFile && n == 1 && index == m.next && size == 0:
		m.waiting[index] = true
		m.next++
	case kind == controlFileDropped && n == 0 && m.waiting[index]:
		delete(m.waiting, index)
	default:
		m.broken = true
	}
}

// FuzzControl reads records of files, each from two bytes: what it is, and with what. The receiver has
// just the files that it should have, and at the end none is left.
func FuzzControl(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x23, 0, 0x23, 1, 0x04, 0, 0x23, 2, 0x04, 2})
	f.Add([]byte{0x23, 1})
	f.Add([]byte{0x43, 0})
	f.Add([]byte{0xa3, 0, 0xb3, 0})
	f.Add([]byte{0x23, 0, 0x04, 0, 0x04, 0})
	flood := make([]byte, 0, 2*(maxWaitingFiles+10))
	for i := range byte(maxWaitingFiles + 10) {
		flood = append(flood, 0x23, i)
	}
	f.Add(flood)
	f.Fuzz(func(t *testing.T, ops []byte) {
		ops = ops[:min(len(ops), 300)]
		l, other := newPair(t)
		b := other.control
		r, w, err := os.Pipe()
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		fd := int(w.Fd())
		m := controlModel{waiting: make(map[uint32]bool)}
		for ; len(ops) >= 2; ops = ops[2:] {
			kind, n := uint32(ops[0]&7), int(ops[0]>>5&3)
			switch kind {
			case controlRegion, controlRegionGone, controlRegionLost, controlReleased:
				kind = 0 // these are others' business
			}
			split, sized := ops[0]>>7 > 0, ops[0]>>3&3 == 3
			record := binary.LittleEndian.AppendUint32(nil, kind)
			record = binary.LittleEndian.AppendUint32(record, uint32(ops[1]))
			size := uint64(0)
			if sized {
				size = 4096
			}
			record = binary.LittleEndian.AppendUint64(record, size)
			var rights []byte
			if n > 0 {
				rights = unix.UnixRights([]int{fd, fd, fd}[:n]...)
			}
			if split {
				_, err := b.Write(record[:5])
				require.NoError(t, err)
				record = record[5:]
			}
			_, _, err := b.WriteMsgUnix(record, rights, nil)
			require.NoError(t, err)
			m.record(kind, uint32(ops[1]), size, n)
			l.in.mu.Lock()
			l.catchUp(nil)
			list := slices.Clone(l.in.files.list)
			l.in.mu.Unlock()
			require.Len(t, list, len(m.waiting))
			for _, f := range list {
				require.True(t, m.waiting[f.index])
				require.NoError(t, f.missing)
			}
			end := l.end.Load()
			require.Equal(t, m.broken, end != nil)
			if m.broken {
				require.ErrorIs(t, *end, ipc.ErrProtocol)
				break
			}
		}
		require.NoError(t, l.Close())
		require.NoError(t, other.Close())
		w.Close()
		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "a file was kept")
	})
}

// newPair returns both ends of a link, which read their control sockets.
func newPair(t *testing.T) (a, b *link) {
	t.Helper()
	a, b = linked(t)
	a.watch()
	b.watch()
	return a, b
}

// A peer that takes no files is sent no more than a few. Who waits to send one can give up, and the
// end of either side is noticed all the same.
func TestControlSocketIsFull(t *testing.T) {
	a, b := newPair(t)
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	full := false
	for i := uint32(0); !full; i++ {
		require.Less(t, i, uint32(100_000), "it is never full")
		for _, patience := range []time.Duration{20 * time.Millisecond, 5 * time.Second} { // a busy machine may need more than the first
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			err := a.sendControl(ctx, controlFile, i, 0, null)
			cancel()
			if full = err != nil; !full {
				break
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Eventually(t, func() bool {
				b.in.mu.Lock()
				defer b.in.mu.Unlock()
				return len(b.in.files.list) == maxWaitingFiles
			}, time.Minute, time.Millisecond)
		}
		b.in.mu.Lock()
		require.LessOrEqual(t, len(b.in.files.list), maxWaitingFiles)
		b.in.mu.Unlock()
	}
	require.Nil(t, a.end.Load())
	require.Nil(t, b.end.Load())
	blocked := make(chan error, 1)
	go func() { blocked <- a.sendControl(context.Background(), controlFile, 0, 0, null) }()
	a.Shutdown()
	require.ErrorIs(t, <-blocked, ipc.ErrDisconnected)
	<-b.gone
	require.ErrorIs(t, *b.end.Load(), ipc.ErrPeerGone)
}
