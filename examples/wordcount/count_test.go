package main

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// reference counts byte by byte, as the rule at Totals reads.
func reference(text []byte, ranked map[string]int64) (t Totals) {
	var run []byte
	end := func() {
		if bytes.ContainsFunc(run, func(r rune) bool { return '!' <= r && r <= '~' }) {
			t.Words++
			if len(run) <= maxWord {
				ranked[string(run)]++
			}
		}
		run = nil
	}
	for _, b := range text {
		t.Bytes++
		if b == '\n' {
			t.Lines++
		}
		if strings.IndexByte(" \t\n\v\f\r", b) >= 0 {
			end()
		} else {
			run = append(run, b)
		}
	}
	end()
	return t
}

// countCut counts text as the host does that was cut at the given places.
func countCut(text []byte, ranked map[string]int64, cuts ...int) Totals {
	word := func(w []byte) { ranked[string(w)]++ }
	var whole Part
	from := 0
	for i, to := range append(cuts, len(text)) {
		p := countChunk(Chunk{Text: text[from:to], First: i == 0, Last: i == len(cuts)}, word)
		if from = to; i == 0 {
			whole = p
		} else {
			whole = join(whole, p, word)
		}
	}
	return whole.Totals
}

func requireCount(t *testing.T, text []byte, cuts ...int) {
	t.Helper()
	want, got := map[string]int64{}, map[string]int64{}
	wantTotals, gotTotals := reference(text, want), countCut(text, got, cuts...)
	if wantTotals != gotTotals || !maps.Equal(want, got) {
		assert.Equal(t, wantTotals, gotTotals)
		assert.Equal(t, want, got)
		require.FailNow(t, "differs", "%q cut at %v", text, cuts)
	}
}

// TestCount holds what LC_ALL=C wc of GNU coreutils 9.1 says.
func TestCount(t *testing.T) {
	for text, want := range map[string]Totals{
		"":                       {},
		"\n":                     {1, 0, 1},
		"a":                      {0, 1, 1},
		" a":                     {0, 1, 2},
		"a b\nc":                 {1, 3, 5},
		"\x00":                   {0, 0, 1},
		"\x01 \x7f \x80 \xff":    {0, 0, 7},
		"a\x00b":                 {0, 1, 3},
		"\x00 a":                 {0, 1, 3},
		"\x00a \xffb\xff":        {0, 2, 6},
		"\x1b \x01":              {0, 0, 3},
		"a\vb\fc\rd":             {0, 4, 7},
		"a\xa0b":                 {0, 1, 3},
		"a\x85b":                 {0, 1, 3},
		"\xa0\x80 x":             {0, 1, 4},
		"\u00e4 \u2003 b\u00a0c": {0, 1, 11},
	} {
		assert.Equal(t, want, countCut([]byte(text), map[string]int64{}), "%q", text)
		requireCount(t, []byte(text))
	}
}

func TestCountCutEverywhere(t *testing.T) {
	long := strings.Repeat("x", maxWord-2)
	for _, text := range []string{
		"", "a", " ", "ab", "\x00\x00", "one two\nthree", "  \x00 x\x00y \xff\n", "a b c d ", "\n\n",
		long + "12 " + long + "123\n\x00" + long + "1",
		strings.Repeat("\x00", 2*maxWord) + "!" + strings.Repeat("\xff", 3),
	} {
		for i := range len(text) + 1 {
			requireCount(t, []byte(text), i)
			if len(text) > 40 {
				continue
			}
			for j := i; j <= len(text); j++ {
				requireCount(t, []byte(text), i, j)
			}
		}
	}
}

// TestJoinInAnyOrder: parts may be joined in whichever order.
func TestJoinInAnyOrder(t *testing.T) {
	text := []byte("ab cd\x00 \xff ef\n")
	none := func([]byte) {}
	for i := range len(text) + 1 {
		for j := i; j <= len(text); j++ {
			a, b, c := countPart(text[:i], none), countPart(text[i:j], none), countPart(text[j:], none)
			left, right := join(join(a, b, none), c, none), join(a, join(b, c, none), none)
			require.Equal(t, left.Totals, right.Totals)
			require.Equal(t, fmt.Sprintf("%t %q %q", left.Split, left.Head.Text, left.Tail.Text),
				fmt.Sprintf("%t %q %q", right.Split, right.Head.Text, right.Tail.Text))
		}
	}
}

func FuzzCount(f *testing.F) {
	f.Add([]byte("one two\nthree"), uint(3), uint(9))
	f.Add([]byte("\x00 \xffa\v"), uint(0), uint(2))
	f.Add(bytes.Repeat([]byte("x"), 2*maxWord), uint(maxWord), uint(maxWord+1))
	f.Fuzz(func(t *testing.T, text []byte, i, j uint) {
		a, b := int(i%uint(len(text)+1)), int(j%uint(len(text)+1))
		requireCount(t, text, min(a, b), max(a, b))
	})
}

func BenchmarkCount(b *testing.B) {
	text := bytes.Repeat([]byte("func (t *Table) Add(word []byte, n int64) { t.index[string(word)]++ } // once more\n"), 1<<13)
	table := newTable()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		countPart(text, func(word []byte) { table.Add(word, 1) })
	}
}
