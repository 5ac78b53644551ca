package main

import (
	"bytes"
	"cmp"
	"slices"
)

// Entry is a word and how often it occurred.
type Entry struct {
	_     struct{} `cbor:",toarray"`
	Word  []byte
	Count int64
}

// compare orders entries by falling count, and equal ones by their bytes.
func compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(b.Count, a.Count), bytes.Compare(a.Word, b.Word))
}

// Table counts words.
type Table struct {
	index  map[string]int // into the two below
	words  []string
	counts []int64
}

func newTable() *Table { return &Table{index: make(map[string]int)} }

// Add counts word n more times.
func (t *Table) Add(word []byte, n int64) {
	i, ok := t.index[string(word)]
	if !ok {
		i = len(t.words)
		s := string(word)
		t.index[s] = i
		t.words, t.counts = append(t.words, s), append(t.counts, 0)
	}
	t.counts[i] += n
}

// Count returns how often word was counted.
func (t *Table) Count(word []byte) int64 {
	if i, ok := t.index[string(word)]; ok {
		return t.counts[i]
	}
	return 0
}

// Top returns the n most frequent words, in order.
func (t *Table) Top(n int) []Entry {
	if n < 1 {
		return nil
	}
	var top []Entry
	for i, count := range t.counts {
		if len(top) == n {
			if last := top[n-1]; count < last.Count || count == last.Count && t.words[i] > string(last.Word) {
				continue
			}
			top = top[:n-1]
		}
		e := Entry{Word: []byte(t.words[i]), Count: count}
		at, _ := slices.BinarySearchFunc(top, e, compare)
		top = slices.Insert(top, at, e)
	}
	return top
}

// AtLeast returns words that were counted at least n times: those from the
// index from on, up to about size bytes of them. next is where to go on, and -1
// at the end.
func (t *Table) AtLeast(n int64, from, size int) (words [][]byte, next int) {
	for i := max(from, 0); i < len(t.counts); i++ {
		if t.counts[i] < n {
			continue
		}
		if size <= 0 {
			return words, i
		}
		words = append(words, []byte(t.words[i]))
		size -= len(t.words[i]) + 4 // and what its encoding takes
	}
	return words, -1
}
