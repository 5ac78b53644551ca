package ring

import (
	"go/parser"
	"go/token"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLayoutOffsets(t *testing.T) {
	require.Equal(t, 0x000, offMagic)
	require.Equal(t, 0x008, offVersion)
	require.Equal(t, 0x010, offSize)
	require.Equal(t, 0x018, offStart)
	require.Equal(t, 0x080, offConsumerPosition)
	require.Equal(t, 0x100, offDataWaiting)
	require.Equal(t, 0x180, offSpaceWaiting)
	require.Equal(t, 0x200, offDataBell)
	require.Equal(t, 0x280, offSpaceBell)
	require.Equal(t, 4096, ControlSize)
	require.Equal(t, 1, LayoutVersion)

	// The words are where Format and the two ends use them.
	a, b := newSegment(t, MinSize, 64), newSegment(t, MinSize, 0)
	p, c, err := Join(a, b)
	require.NoError(t, err)
	require.Same(t, u32At(a, 0x100), c.waiting)
	require.Same(t, u32At(a, 0x180), p.space)
	require.Same(t, u32At(a, 0x200), p.dataBell)
	require.Same(t, u32At(a, 0x280), c.spaceBell)
	require.Same(t, u64At(a, 0x080), c.position)
	require.Same(t, u64At(b, 0x080), p.consumer)
	require.Same(t, u32At(b, 0x100), p.waiting)
	require.Same(t, u32At(b, 0x180), c.wanted)
	require.Same(t, u32At(b, 0x200), c.sleep.Bell)
	require.Same(t, u32At(b, 0x280), p.sleep.Bell)
	require.Equal(t, "tndring1", string(a[:8]))
	require.EqualValues(t, 1, *u32At(a, 8))
	require.EqualValues(t, MinSize, *u64At(a, 16))
	require.EqualValues(t, 64, *u64At(a, 24))
}

func TestRecordWord(t *testing.T) {
	w := word(0x7fff8, flagReady|flagMore, 0xab, 0x12345678)
	require.Equal(t, uint64(0xffff_05ab_12345678), w)
	require.Equal(t, uint64(0x0000_01ab_00000000), word(0x80000, flagReady, 0xab, 0))
	for n, want := range map[uint64]uint64{0: 8, 1: 16, 7: 16, 8: 16, 9: 24, 16: 24} {
		require.Equal(t, want, recordSize(n), "payload of %d", n)
	}
}

func TestSegmentSize(t *testing.T) {
	n, err := SegmentSize(1 << 20)
	require.NoError(t, err)
	require.Equal(t, 4096+1<<20, n)
	for _, bad := range []int{-4096, 0, 1, 2048, 4097, 12288, MaxSize + 1, math.MaxInt, math.MinInt} {
		_, err := SegmentSize(bad)
		require.ErrorIs(t, err, ErrLayout)
		require.ErrorContains(t, err, strconv.Itoa(bad)+" bytes, want a power of two from 4096 to 1073741824")
	}
}

func TestFormatRefuses(t *testing.T) {
	mem := newSegment(t, 2*MinSize, 0) // from a helper: arrays on the stack are not aligned
	require.ErrorContains(t, Format(mem[8:8+ControlSize+MinSize], 0), "starts 8 bytes behind a multiple of 128")
	require.ErrorContains(t, Format(mem[:ControlSize+MinSize], 12), "start position 12, want a multiple of 8")
	require.ErrorContains(t, Format(mem[:100], 0), "segment of 100 bytes, want at least 8192")
	require.ErrorIs(t, Format(nil, 0), ErrLayout)
	require.ErrorIs(t, Format(mem[:9000], 0), ErrLayout)
}

// TestEmptyRingTakesLargest proves the claim in layout.go for every position.
func TestEmptyRingTakesLargest(t *testing.T) {
	for off := uint64(0); off < MinSize; off += 8 {
		p, c := newPair(t, MinSize, off)
		payload := make([]byte, p.MaxRecord())
		require.NoError(t, p.Write(1, payload), "at offset %d", off)
		r, ok, err := c.Next()
		require.NoError(t, err)
		require.True(t, ok)
		require.Len(t, r.Data, len(payload))
	}
}

// TestUnsafeOnlyInUnsafeFiles keeps unsafe where a reader looks for it.
func TestUnsafeOnlyInUnsafeFiles(t *testing.T) {
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	seen := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.ImportsOnly|parser.ParseComments)
		require.NoError(t, err)
		for _, imp := range f.Imports {
			if imp.Path.Value == `"unsafe"` {
				seen++
				require.True(t, strings.HasSuffix(e.Name(), "_unsafe.go"), "%s imports unsafe", e.Name())
			}
		}
		for _, group := range f.Comments {
			require.NotContains(t, group.Text(), "go:"+"linkname", e.Name())
		}
	}
	require.NotZero(t, seen)
}

// newSegment formats heap memory.
func newSegment(tb testing.TB, size int, start uint64) []byte {
	n, err := SegmentSize(size)
	require.NoError(tb, err)
	seg := make([]byte, n)
	for i := range seg {
		seg[i] = 0xa5 // a ring need not be clean
	}
	require.NoError(tb, Format(seg, start))
	return seg
}

// newPair returns a producer and the consumer of its ring, on heap memory.
func newPair(tb testing.TB, size int, start uint64) (*Producer, *Consumer) {
	a, b := newSegment(tb, size, start), newSegment(tb, MinSize, 0)
	p, _, err := Join(a, b)
	require.NoError(tb, err)
	_, c, err := Join(b, a)
	require.NoError(tb, err)
	return p, c
}

// What travels by value on the hot path fits the registers that Go passes it in.
func TestWhatTravelsInRegisters(t *testing.T) {
	const words = 4 // the largest struct that Go does not keep in memory
	for _, typ := range []reflect.Type{reflect.TypeFor[Record](), reflect.TypeFor[Message]()} {
		require.LessOrEqual(t, typ.Size(), uintptr(words*strconv.IntSize/8), "%v", typ)
	}
}
