package main

import (
	"context"
	"sync"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// The contract. The content of files goes one way; what comes back is small,
// for each worker keeps the table of the words it has seen, and is asked about
// it in the end: see mostFrequent.
var (
	// CountText counts a chunk of a file.
	CountText = ipc.NewMethod[Chunk, Part]("wordcount.text")
	// CountWords adds words that lay across the cuts between chunks.
	CountWords = ipc.NewMethod[[][]byte, struct{}]("wordcount.words")
	// TopWords returns the worker's own most frequent words.
	TopWords = ipc.NewMethod[int, []Entry]("wordcount.top")
	// ListWords returns the words that the worker has counted so many times.
	ListWords = ipc.NewMethod[ListRequest, WordList]("wordcount.list")
	// LookUp returns how often the worker has counted each of the words.
	LookUp = ipc.NewMethod[[][]byte, []int64]("wordcount.lookup")
)

// Chunk is a piece of a file.
type Chunk struct {
	Text []byte `cbor:"1,keyasint"`
	// First and Last: the file begins, and ends, with it.
	First bool `cbor:"2,keyasint,omitempty"`
	Last  bool `cbor:"3,keyasint,omitempty"`
}

// ListRequest asks for the words from index From on with a count of AtLeast.
type ListRequest struct {
	AtLeast int64 `cbor:"1,keyasint"`
	From    int   `cbor:"2,keyasint,omitempty"`
}

// WordList is a page of words. Next is where the following one begins, or -1.
type WordList struct {
	Words [][]byte `cbor:"1,keyasint"`
	Next  int      `cbor:"2,keyasint"`
}

// serve is the worker.
func serve() error {
	// One chunk is counted at a time, while the next ones arrive. It is the
	// number of workers that makes use of more processors.
	var mu sync.Mutex
	table := newTable()
	add := func(word []byte) { table.Add(word, 1) }

	s := worker.NewServer()
	worker.Handle(s, CountText, func(_ context.Context, c Chunk) (Part, error) {
		mu.Lock()
		defer mu.Unlock()
		return countChunk(c, add), nil
	})
	worker.Handle(s, CountWords, func(_ context.Context, words [][]byte) (struct{}, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, word := range words {
			add(word)
		}
		return struct{}{}, nil
	})
	worker.Handle(s, TopWords, func(_ context.Context, n int) ([]Entry, error) {
		mu.Lock()
		defer mu.Unlock()
		return table.Top(n), nil
	})
	worker.Handle(s, ListWords, func(_ context.Context, r ListRequest) (WordList, error) {
		mu.Lock()
		defer mu.Unlock()
		words, next := table.AtLeast(r.AtLeast, r.From, chunkSize)
		return WordList{Words: words, Next: next}, nil
	})
	worker.Handle(s, LookUp, func(_ context.Context, words [][]byte) ([]int64, error) {
		mu.Lock()
		defer mu.Unlock()
		counts := make([]int64, len(words))
		for i, word := range words {
			counts[i] = table.Count(word)
		}
		return counts, nil
	})
	return s.Serve(context.Background())
}

// countChunk counts a chunk and calls word with each word that ends within it.
func countChunk(c Chunk, word func([]byte)) Part {
	p := countPart(c.Text, word)
	if c.First {
		p = join(edge, p, word)
	}
	if c.Last {
		p = join(p, edge, word)
	}
	return p
}
