//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	table := newTable()
	for word, n := range map[string]int64{"a": 1, "b": 3, "c": 3, "d": 2, "\xff": 3} {
		table.Add([]byte(word), n)
	}
	table.Add([]byte("a"), 4)
	assert.EqualValues(t, 5, table.Count([]byte("a")))
	assert.EqualValues(t, 0, table.Count([]byte("z")))
	want := []Entry{{Word: []byte("a"), Count: 5}, {Word: []byte("b"), Count: 3}, {Word: []byte("c"), Count: 3}, {Word: []byte("\xff"), Count: 3}, {Word: []byte("d"), Count: 2}}
	for n := -1; n < 7; n++ {
		assert.Equal(t, want[:min(max(n, 0), len(want))], append([]Entry{}, table.Top(n)...), n)
	}
}

func TestTableAtLeastPages(t *testing.T) {
	table := newTable()
	for i := range 100 {
		table.Add([]byte(fmt.Sprint("word", i)), int64(i))
	}
	for _, size := range []int{1, 50, 1 << 20} {
		var got [][]byte
		pages := 0
		for from := 0; from >= 0; pages++ {
			var words [][]byte
			words, from = table.AtLeast(40, from, size)
			got = append(got, words...)
		}
		assert.Len(t, got, 60)
		assert.Len(t, slices.CompactFunc(got, func(a, b []byte) bool { return string(a) == string(b) }), 60)
		assert.Equal(t, size == 1<<20, pages == 1)
	}
	words, next := table.AtLeast(0, -5, 1<<20)
	assert.Len(t, words, 100)
	assert.Equal(t, -1, next)
}

// TestMostFrequent compares with one table of all words.
func TestMostFrequent(t *testing.T) {
	for seed := range uint64(4) {
		h, ctx := startHost(t, 3)
		random := rand.New(rand.NewPCG(seed, 0))
		all := newTable()
		for _, p := range h.workers {
			var words [][]byte
			for range random.IntN(3000) {
				// With many equal counts, and words that few workers know.
				word := []byte(fmt.Sprint(int(random.ExpFloat64() * float64(10+200*seed))))
				words = append(words, word)
				all.Add(word, 1)
			}
			_, err := CountWords.Call(ctx, p, words)
			require.NoError(t, err)
		}
		for _, n := range []int{1, 2, 20, 10000} {
			got, err := h.MostFrequent(ctx, n)
			require.NoError(t, err)
			require.Equal(t, all.Top(n), got, "seed %d, n %d", seed, n)
		}
	}
}

func TestMostFrequentOfNothing(t *testing.T) {
	h, ctx := startHost(t, 2)
	got, err := h.MostFrequent(ctx, 20)
	require.NoError(t, err)
	assert.Empty(t, got)
}
