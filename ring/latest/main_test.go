package latest

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// helpers are what the test binary does when a test starts it again as another process.
var helpers = map[string]func(args []string){}

const helperEnv = "TANDEM_LATEST_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name](os.Args[1:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// newCell returns the two sides of a cell on memory that was not clean.
func newCell(tb testing.TB, size, slots int) (mem []byte, w *Writer, r *Reader) {
	tb.Helper()
	n, err := MemorySize(size, slots)
	require.NoError(tb, err)
	mem = make([]byte, n)
	for i := range mem {
		mem[i] = 0xa5
	}
	w, err = NewWriter(mem, size, slots, 7)
	require.NoError(tb, err)
	r, err = NewReader(mem)
	require.NoError(tb, err)
	return mem, w, r
}

// fill makes p the value that the tests store as this version: no two versions share a word.
func fill(p []byte, version uint64) {
	var word [8]byte
	for i := 0; i < len(p); i += 8 {
		binary.NativeEndian.PutUint64(word[:], wordOf(version, i))
		copy(p[i:], word[:])
	}
}

// wordOf is the word at i of a value. That of version 0 is 0.
func wordOf(version uint64, i int) uint64 { return version * (0x9e3779b97f4a7c15 + uint64(2*i)) }

// isWhole reports whether p is the value that fill makes of version.
func isWhole(p []byte, version uint64) bool {
	var word [8]byte
	for i := 0; i < len(p); i += 8 {
		binary.NativeEndian.PutUint64(word[:], wordOf(version, i))
		if string(p[i:min(i+8, len(p))]) != string(word[:min(8, len(p)-i)]) {
			return false
		}
	}
	return true
}
