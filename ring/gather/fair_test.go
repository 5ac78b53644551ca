package gather

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ring"
)

// A producer whose ring is never empty gets a turn after at most one turn of each other, and a
// turn is no longer than the quantum and one record, whatever the others do.
func TestFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Consumer[int]
		records := rapid.IntRange(1, 70).Draw(t, "records")
		bytes := rapid.IntRange(1, 4000).Draw(t, "bytes")
		g.SetQuantum(records, bytes)
		many := rapid.IntRange(2, 9).Draw(t, "producers")
		type producer struct {
			p     *ring.Producer
			size  int
			idle  bool // publishes now and then only
			sent  uint64
			got   uint64
			turns int // of others since its last one
		}
		var producers []*producer
		for id := range many {
			p, c := pair(t, ring.MinSize)
			if err := g.Add(c, id); err != nil {
				t.Fatal(err)
			}
			producers = append(producers, &producer{
				p: p, size: rapid.IntRange(0, 1500).Draw(t, "size"), idle: rapid.Bool().Draw(t, "idle"),
			})
		}
		seed := rapid.Uint64().Draw(t, "seed")
		r := rand.New(rand.NewPCG(seed, 1))
		fill := func(s *producer) {
			for s.p.Write(0, number(s.sent, s.size)) == nil {
				s.sent++
				if s.idle {
					break
				}
			}
		}
		for _, s := range producers {
			fill(s)
		}
		last, inTurn, bytesInTurn := -1, 0, 0
		for range 2000 {
			rec, id, ok, err := g.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				for id, s := range producers {
					if s.got < s.sent {
						t.Fatalf("producer %d has something, and Next finds nothing", id)
					}
					fill(s)
				}
				continue
			}
			if n := numberOf(t, rec.Data); n != producers[id].got {
				t.Fatalf("record %d, want %d", n, producers[id].got)
			}
			producers[id].got++
			// Each other producer's claim to a turn.
			if id != last || inTurn >= records || bytesInTurn >= bytes {
				for other, s := range producers {
					if other != id && s.got < s.sent {
						if s.turns++; s.turns > many-1 {
							t.Fatalf("producer %d waits for turn number %d, of %d producers", other, s.turns, many)
						}
					}
				}
				last, inTurn, bytesInTurn = id, 0, 0
			}
			producers[id].turns = 0
			inTurn++
			bytesInTurn += len(rec.Data)
			if r.IntN(3) == 0 || !producers[id].idle {
				fill(producers[id])
			}
		}
	})
}

// Producers that all have full rings get the same number of records, if these are of one size.
func TestEqualShares(t *testing.T) {
	var g Consumer[int]
	var producers []*ring.Producer
	for id := range 5 {
		p, c := pair(t, 64<<10<<id) // whatever the sizes of their rings
		require.NoError(t, g.Add(c, id))
		producers = append(producers, p)
	}
	got := make([]int, len(producers))
	for range scaled(100000) {
		for _, p := range producers {
			for p.Write(0, make([]byte, 100)) == nil {
			}
		}
		for range 50 {
			_, id, ok, err := g.Next()
			require.NoError(t, err)
			require.True(t, ok)
			got[id]++
		}
		if got[0] > 20*DefaultRecords {
			break
		}
	}
	for _, n := range got {
		require.InDelta(t, got[0], n, DefaultRecords)
	}
}
