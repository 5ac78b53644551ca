package shm

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ring/fdpass"
)

// acknowledged returns a pair of links, of which from has got the acks of to, and a buffer.
func acknowledged(t *testing.T) (from, to *link, b ipc.Buffer) {
	t.Helper()
	from, to = linked(t)
	arena := ipc.NewArena(ipc.ArenaOptions{})
	b, err := arena.Alloc(t.Context(), 100)
	require.NoError(t, err)
	t.Cleanup(func() { b.Release(); arena.Close() })
	sendBuffer(t, from, b)
	received(t, to).Release()
	catchAcks(t, from)
	require.Zero(t, held(from))
	return from, to, b
}

// held returns how many buffers the peer of l has.
func held(l *link) int {
	l.exports.Reclaim()
	_ = l.exports.lock.Lock(context.Background(), nil)
	defer l.exports.lock.Unlock()
	return len(l.exports.sent) - l.exports.first
}

// attachOne takes a place for a buffer.
func attachOne(t *testing.T, l *link, b ipc.Buffer) (h drivers.Handle, err error) {
	t.Helper()
	handles, err := l.exports.attach(t.Context(), []ipc.Attached[ipc.Buffer]{{What: b}}, nil)
	if err == nil {
		h, _, err = drivers.NextHandle(handles)
	}
	return h, err
}

// catchAcks waits for the acks of l's peer.
func catchAcks(t *testing.T, l *link) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.imports.catchUp(nil)
		return l.exports.acks.Load() != nil
	}, 30*time.Second, 10*time.Microsecond)
}

// A buffer that another goroutine has released before it is sent is an error, and leaves the link as
// it was.
func TestSendOfReleasedBuffer(t *testing.T) {
	from, to, b := acknowledged(t)
	lost := b.Retain()
	lost.Release()
	_, err := attachOne(t, from, lost)
	require.ErrorContains(t, err, "was released")
	sendBuffer(t, from, b)
	received(t, to).Release()
	require.Zero(t, held(from))
}

// A peer that says it has released what it never got does not make one place two.
func TestPlaceReleasedBeforeItIsSent(t *testing.T) {
	from, to, b := acknowledged(t)
	h, err := attachOne(t, from, b)
	require.NoError(t, err)
	to.imports.words[h.Place].Add(1)
	require.Zero(t, held(from), "it counts as released")
	from.exports.takeBack(h.Append(nil)) // for the frame was not sent
	places := make(map[uint32]bool)
	for range 3 {
		h, err := attachOne(t, from, b)
		require.NoError(t, err)
		require.False(t, places[h.Place], "place %d is used twice", h.Place)
		places[h.Place] = true
	}
}

// Acks that come after the link has ended are unmapped with it.
func TestAcksAfterTheEnd(t *testing.T) {
	from, to := linked(t)
	arena := ipc.NewArena(ipc.ArenaOptions{})
	defer arena.Close()
	b, err := arena.Alloc(t.Context(), 100)
	require.NoError(t, err)
	defer b.Release()
	sendBuffer(t, from, b)
	from.finish(errors.New("the end"))
	require.Eventually(t, func() bool {
		_ = from.exports.lock.Lock(t.Context(), nil)
		defer from.exports.lock.Unlock()
		return from.exports.ended
	}, 30*time.Second, time.Millisecond)
	received(t, to).Release()
	catchAcks(t, from)
	acks := from.exports.acks.Load()
	require.NoError(t, from.Close())
	require.Nil(t, acks.Bytes(), "they are mapped still")
}

// A peer that writes records without end keeps no reader for ever.
func TestRecordsWithoutEnd(t *testing.T) {
	from, to := linked(t)
	file, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer file.Close()
	write := func(kind, index uint32, f *os.File) {
		var b [controlRecord]byte
		binary.LittleEndian.PutUint32(b[:], kind)
		binary.LittleEndian.PutUint32(b[4:], index)
		_, err := fdpass.Pass(to.control, b[:], f)
		require.NoError(t, err)
	}
	asked := uint32(0)
	from.imports.catchUp(func() bool {
		switch n := asked / 2; asked % 2 {
		case 0:
			write(controlFile, n, file)
		default:
			write(controlFileDropped, n, nil)
		}
		asked++
		return asked > 4*maxReads
	})
	require.LessOrEqual(t, asked, uint32(2*maxReads))
	require.Nil(t, from.end.Load(), "the records were good ones")
}
