package main

import (
	"bytes"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tandemipc/tandem/ipc"
)

// mostFrequent returns the n most frequent words of all workers together. Their
// tables may hold millions of words, so it does not fetch them but asks three
// small questions, as in the "three-phase uniform threshold" algorithm:
//
//  1. What are your own top n? Added up, the n-th best of these is a floor: the
//     n words we look for occur at least that often.
//  2. Which of your words reach floor / number of workers? A word that stays
//     below that with every worker is below the floor in all, so none is missed.
//  3. How often do you have each of these? The sums are exact.
func mostFrequent(ctx context.Context, workers []ipc.Caller, n int) ([]Entry, error) {
	tops, err := ask(ctx, workers, func(ctx context.Context, w ipc.Caller) ([]Entry, error) {
		return TopWords.Call(ctx, w, n)
	})
	if err != nil {
		return nil, err
	}
	sums := newTable()
	for _, top := range tops {
		for _, e := range top {
			sums.Add(e.Word, e.Count)
		}
	}
	enough := int64(1)
	if top := sums.Top(n); len(top) == n {
		// Rounded up, so that it is 1 at the least.
		enough = (top[n-1].Count + int64(len(workers)) - 1) / int64(len(workers))
	}

	lists, err := ask(ctx, workers, func(ctx context.Context, w ipc.Caller) (words [][]byte, err error) {
		for from := 0; from >= 0; {
			page, err := ListWords.Call(ctx, w, ListRequest{AtLeast: enough, From: from})
			if err != nil {
				return nil, err
			}
			words, from = append(words, page.Words...), page.Next
		}
		return words, nil
	})
	if err != nil {
		return nil, err
	}
	words := slices.Concat(lists...)
	slices.SortFunc(words, bytes.Compare)
	words = slices.CompactFunc(words, bytes.Equal)

	counts, err := ask(ctx, workers, func(ctx context.Context, w ipc.Caller) (counts []int64, err error) {
		for batch := range slices.Chunk(words, wordBatch) {
			some, err := LookUp.Call(ctx, w, batch)
			if err != nil {
				return nil, err
			}
			counts = append(counts, some...)
		}
		return counts, nil
	})
	if err != nil {
		return nil, err
	}
	found := make([]Entry, len(words))
	for i, word := range words {
		found[i].Word = word
		for _, c := range counts {
			found[i].Count += c[i]
		}
	}
	slices.SortFunc(found, compare)
	return found[:min(n, len(found))], nil
}

// ask asks all workers at the same time.
func ask[T any](ctx context.Context, workers []ipc.Caller, question func(context.Context, ipc.Caller) (T, error)) ([]T, error) {
	answers := make([]T, len(workers))
	g, ctx := errgroup.WithContext(ctx)
	for i, w := range workers {
		g.Go(func() (err error) {
			answers[i], err = question(ctx, w)
			return err
		})
	}
	return answers, g.Wait()
}
