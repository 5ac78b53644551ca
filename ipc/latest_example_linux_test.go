package ipc_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tandemipc/tandem/ipc"
)

// Progress is a type that ipc.Fixed carries.
type Progress struct {
	Done, Total uint64
}

// In life the reader is another process, which gets the file by exec.Cmd.ExtraFiles, for
// example.
func ExampleLatest() {
	progress, err := ipc.NewLatest[Progress]()
	if err != nil {
		log.Fatal(err)
	}
	defer progress.Close()
	reader, err := ipc.OpenLatest[Progress](progress.File())
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()

	for done := range uint64(3) {
		if err := progress.Store(Progress{Done: done + 1, Total: 3}); err != nil {
			log.Fatal(err)
		}
	}
	p, version, err := reader.Load()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Done, "of", p.Total, "in version", version)
	// Output: 3 of 3 in version 3
}

func ExampleLatestReader_Next() {
	limit, err := ipc.NewLatest[uint64]()
	if err != nil {
		log.Fatal(err)
	}
	defer limit.Close()
	reader, err := ipc.OpenLatest[uint64](limit.File())
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()

	go limit.Store(100)
	l, _, err := reader.Next(context.Background(), 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the limit is", l)
	// Output: the limit is 100
}

func ExampleCounters() {
	const served, began = 0, 1 // began is counted first, so it has the higher index
	counters, err := ipc.NewCounters(2)
	if err != nil {
		log.Fatal(err)
	}
	defer counters.Close()
	reader, err := ipc.OpenCounters(counters.File())
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()

	for range 5 {
		counters.Add(began, 1)
		counters.Add(served, 1)
	}
	counters.Add(began, 1)
	counts := reader.Snapshot(nil)
	fmt.Println(counts[began], "began,", counts[served], "served")
	// Output: 6 began, 5 served
}
