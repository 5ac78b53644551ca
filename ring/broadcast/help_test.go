package broadcast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// watchdog is a context that ends long after the test should have.
func watchdog(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the test hangs"))
	t.Cleanup(cancel)
	return ctx
}

// scaled is n, or less where tests are slow.
func scaled(n int) int {
	if raceEnabled || testing.Short() {
		return max(1, n/10)
	}
	return n
}

// starts are where streams begin: positions and sequence numbers wrap soon after some of them.
var starts = []Point{{}, {Position: 8, Sequence: 1}, {Position: 1<<64 - 8, Sequence: 1<<64 - 1}, {Position: 1<<64 - 4096, Sequence: 1<<64 - 50}, {Position: 1<<64 - 8192 - 24, Sequence: 1<<63 - 10}}

// newWriter returns a writer on memory that was not clean.
func newWriter(tb testing.TB, size int, start Point) ([]byte, *Writer) {
	tb.Helper()
	seg := make([]byte, ControlSize+size)
	for i := range seg {
		seg[i] = 0xa5
	}
	require.NoError(tb, Format(seg, start))
	w, err := NewWriter(seg)
	require.NoError(tb, err)
	tb.Cleanup(w.Close)
	return seg, w
}

// newOwn returns memory of a reader's own.
func newOwn(tb testing.TB) []byte {
	tb.Helper()
	own := make([]byte, ReaderSize)
	require.NoError(tb, FormatReader(own))
	return own
}

func newReader(tb testing.TB, seg, own []byte, join Join) *Reader {
	tb.Helper()
	r, err := NewReader(seg, own, join)
	require.NoError(tb, err)
	return r
}

// payloadOf makes the payload of the record with this number: of size bytes, and no two alike.
func payloadOf(buf []byte, seq uint64, size int) []byte {
	buf = binary.LittleEndian.AppendUint64(buf[:0], seq*0x9e3779b97f4a7c15)
	rng := seq
	for len(buf) < size {
		rng = rng*6364136223846793005 + 1442695040888963407
		buf = binary.LittleEndian.AppendUint64(buf, rng)
	}
	return buf[:size]
}

// sizeOf is the size of the payload of the record with this number, up to max.
func sizeOf(seq uint64, max int) int {
	rng := rand.New(rand.NewPCG(seq, 1))
	if rng.IntN(10) > 0 {
		max = min(max, 100)
	}
	return rng.IntN(max + 1)
}

// follower checks that what a reader returns is what a writer that writes payloadOf has written.
type follower struct {
	r        *Reader
	next     uint64 // sequence number
	got, gap uint64
	max      int // of sizeOf
	buf      []byte
}

func follow(r *Reader, max int) *follower { return &follower{r: r, next: r.Point().Sequence, max: max} }

// check checks one record.
func (f *follower) check(rec Record) error {
	f.next += rec.Lost
	f.gap += rec.Lost
	f.buf = payloadOf(f.buf, rec.Sequence, sizeOf(rec.Sequence, f.max))
	switch {
	case rec.Sequence != f.next:
		return fmt.Errorf("record %d after %d were lost, want %d", rec.Sequence, rec.Lost, f.next)
	case string(rec.Data) != string(f.buf):
		return fmt.Errorf("record %d is torn: %x, want %x", rec.Sequence, rec.Data, f.buf)
	case rec.Tag != byte(rec.Sequence):
		return fmt.Errorf("record %d has tag %d", rec.Sequence, rec.Tag)
	case f.gap != f.r.Lost():
		return fmt.Errorf("%d records lost, but Lost says %d", f.gap, f.r.Lost())
	}
	f.next++
	f.got++
	return nil
}

// until reads until it has read, or knows to be lost, all records before end, and perhaps more.
func (f *follower) until(ctx context.Context, end uint64) error {
	for int64(f.next-end) < 0 {
		rec, ok, err := f.r.Next()
		if err == nil && ok {
			err = f.check(rec)
		} else if err == nil {
			err = f.r.Wait(ctx)
		}
		if err != nil {
			return fmt.Errorf("at record %d: %w", f.next, err)
		}
	}
	return nil
}

// writeSome writes n records, by send, each of up to max bytes.
func writeSome(w *Writer, n, max int, send func(tag byte, payload []byte) error) error {
	var buf []byte
	for i := range n {
		seq := w.seq
		buf = payloadOf(buf, seq, sizeOf(seq, max))
		if err := send(byte(seq), buf); err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		if i%128 == 0 {
			runtime.Gosched() // there may be one processor
		}
	}
	return nil
}
