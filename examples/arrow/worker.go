package main

import (
	"context"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/ipc/arrowipc"
	"github.com/tandemipc/tandem/worker"
)

// Aggregate takes batches of trades, and returns what they add up to.
var Aggregate = ipc.NewClientStream[arrowipc.Item, totals]("trades.aggregate")

// minSize: smaller trades do not count.
const minSize = 100

// totals are the trades that count, by symbol.
type totals struct {
	Symbols [len(symbols)]total
	Peak    int64 // memory of the worker's process, in bytes
}

type total struct {
	Trades, Volume int64
	Turnover       float64
}

func serve() error {
	s := worker.NewServer()
	worker.HandleClientStream(s, Aggregate, func(ctx context.Context, in *ipc.Receiver[arrowipc.Item]) (sum totals, err error) {
		for rec, err := range arrowipc.NewReceiver(in, arrowipc.ReadOptions{Schema: schema}).All(ctx) {
			if err != nil {
				return sum, err
			}
			sum.addBatch(rec)
			rec.Release() // and the host may use the memory for another batch
		}
		sum.Peak = peakMemory()
		return sum, nil
	})
	return s.Serve(context.Background())
}

// addBatch adds the trades of a batch that count. The arrays lie in the host's memory.
func (t *totals) addBatch(rec arrow.RecordBatch) {
	names := rec.Column(1).(*array.Dictionary)
	place := make([]int, names.Dictionary().Len()) // of each symbol of the dictionary
	for i := range place {
		place[i] = indexOf(names.Dictionary().(*array.String).Value(i))
	}
	which := names.Indices().(*array.Uint8).Uint8Values()
	prices := rec.Column(2).(*array.Float64).Float64Values()
	for i, size := range rec.Column(3).(*array.Int32).Int32Values() {
		if size < minSize {
			continue
		}
		s := &t.Symbols[place[which[i]]]
		s.Trades++
		s.Volume += int64(size)
		s.Turnover += float64(size) * prices[i]
	}
}

func (t *totals) add(other *totals) {
	for i := range t.Symbols {
		t.Symbols[i].Trades += other.Symbols[i].Trades
		t.Symbols[i].Volume += other.Symbols[i].Volume
		t.Symbols[i].Turnover += other.Symbols[i].Turnover
	}
	t.Peak = max(t.Peak, other.Peak)
}

func (t *totals) print(out io.Writer) {
	fmt.Fprintf(out, "%-6s %10s %14s %18s %9s\n", "symbol", "trades", "volume", "turnover", "average")
	for i, s := range t.Symbols {
		fmt.Fprintf(out, "%-6s %10d %14d %18.2f %9.4f\n", symbols[i], s.Trades, s.Volume, s.Turnover, s.Turnover/float64(max(s.Volume, 1)))
	}
}
