package main

import (
	"bytes"
	"cmp"
	"context"
	"hash/fnv"
	"slices"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
	"github.com/tandemipc/tandem/worker/pipeline"
)

// The contract. Workers keep nothing between two records, so it does not matter when they die; what
// is known in the end is in the host.
var (
	// Split cuts a block of a file into groups of lines.
	Split = ipc.NewMethod[[]byte, []Lines]("split")
	// Parse finds the key of each line, and puts the lines into buckets by key.
	Parse = ipc.NewMethod[Lines, []Bucket]("parse")
	// Aggregate adds up the lines of a bucket.
	Aggregate = ipc.NewMethod[Bucket, []Fact]("aggregate")
)

const (
	linesAtATime = 200
	buckets      = 32
	maxKey       = 40 // bytes
)

// Lines is a group of lines, without their ends.
type Lines [][]byte

// Bucket is some lines whose keys have the same hash.
type Bucket struct {
	Number int
	Keys   [][]byte
	Sizes  []int
}

// Fact is what is known of a key: the first word of lines.
type Fact struct {
	_       struct{} `cbor:",toarray"`
	Key     []byte
	Lines   int64
	Bytes   int64
	Longest int
}

// add adds another fact of the same key.
func (f *Fact) add(g Fact) {
	f.Lines += g.Lines
	f.Bytes += g.Bytes
	f.Longest = max(f.Longest, g.Longest)
}

// serve is a worker of any stage.
func serve() error {
	s := worker.NewServer()
	pipeline.Handle(s, Split, func(_ context.Context, block []byte) ([]Lines, error) { return split(block), nil })
	pipeline.Handle(s, Parse, func(_ context.Context, l Lines) ([]Bucket, error) { return parse(l), nil })
	pipeline.Handle(s, Aggregate, func(_ context.Context, b Bucket) ([]Fact, error) { return aggregate(b), nil })
	return s.Serve(context.Background())
}

func split(block []byte) (groups []Lines) {
	var group Lines
	for len(block) > 0 {
		var line []byte
		line, block, _ = bytes.Cut(block, []byte("\n"))
		if group = append(group, line); len(group) == linesAtATime {
			groups, group = append(groups, group), nil
		}
	}
	if len(group) > 0 {
		groups = append(groups, group)
	}
	return groups
}

// keyOf returns the first word of a line.
func keyOf(line []byte) []byte {
	line = bytes.TrimLeft(line, " \t")
	if i := bytes.IndexAny(line, " \t\r(:"); i >= 0 {
		line = line[:i]
	}
	return line[:min(len(line), maxKey)]
}

func parse(l Lines) []Bucket {
	var all [buckets]Bucket
	for _, line := range l {
		key := keyOf(line)
		h := fnv.New32a()
		h.Write(key)
		b := &all[h.Sum32()%buckets]
		b.Keys = append(b.Keys, key)
		b.Sizes = append(b.Sizes, len(line))
	}
	var used []Bucket
	for i, b := range all {
		if len(b.Keys) > 0 {
			b.Number = i
			used = append(used, b)
		}
	}
	return used
}

func aggregate(b Bucket) (facts []Fact) {
	index := make(map[string]int)
	for i, key := range b.Keys {
		at, ok := index[string(key)]
		if !ok {
			at = len(facts)
			index[string(key)] = at
			facts = append(facts, Fact{Key: key})
		}
		facts[at].add(Fact{Lines: 1, Bytes: int64(b.Sizes[i]), Longest: b.Sizes[i]})
	}
	return facts
}

// Totals are the facts of all keys.
type Totals map[string]*Fact

func (t Totals) add(facts []Fact) {
	for _, f := range facts {
		if known, ok := t[string(f.Key)]; ok {
			known.add(f)
			continue
		}
		f.Key = bytes.Clone(f.Key)
		t[string(f.Key)] = &f
	}
}

// top returns the n keys of the most lines.
func (t Totals) top(n int) []*Fact {
	all := make([]*Fact, 0, len(t))
	for _, f := range t {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *Fact) int {
		return cmp.Or(cmp.Compare(b.Lines, a.Lines), bytes.Compare(a.Key, b.Key))
	})
	return all[:min(n, len(all))]
}

// equal reports whether two totals are the same.
func (t Totals) equal(u Totals) bool {
	for key, f := range t {
		g, ok := u[key]
		if !ok || f.Lines != g.Lines || f.Bytes != g.Bytes || f.Longest != g.Longest {
			return false
		}
	}
	return len(t) == len(u)
}
