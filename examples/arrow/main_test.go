//go:build unix

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

func TestMain(m *testing.M) {
	worker.Main(workerName, serve)
	os.Exit(m.Run())
}

// The workers' result is that of one process, for a table that is some times what the arena has.
func TestWorkersAddUp(t *testing.T) {
	for _, driver := range []string{"shm", "socket"} {
		for _, workers := range []int{1, 3} {
			t.Run(driver, func(t *testing.T) {
				if err := ring.Supported(); err != nil && driver == "shm" {
					t.Skip(err)
				}
				var out strings.Builder
				require.NoError(t, run(t.Context(), &out, options{driver: driver, workers: workers, size: 40 << 20, arena: 8 << 20, verify: true}))
				assert.Contains(t, out.String(), "\nverified\n")
				assert.Contains(t, out.String(), "AAAA")
			})
		}
	}
}

// A batch is the same whoever makes it, and has trades of all symbols that count and some that do not.
func TestBatches(t *testing.T) {
	var sums [2]totals
	for i := range sums {
		m := newMaker()
		defer m.close()
		m.batch(i).Release() // which leaves nothing behind
		rec := m.batch(7)
		sums[i].addBatch(rec)
		rec.Release()
	}
	require.Equal(t, sums[0], sums[1])
	trades := int64(0)
	for _, s := range sums[0].Symbols {
		require.Positive(t, s.Trades)
		require.GreaterOrEqual(t, s.Volume, minSize*s.Trades)
		trades += s.Trades
	}
	require.Less(t, trades, int64(batchRows))
}
