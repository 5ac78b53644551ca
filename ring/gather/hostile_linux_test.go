package gather

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

// TestHostile: whatever one producer writes into its memory, at any time, the others lose nothing. It
// is reported once at most, as corrupt, and its memory is not touched after that: it is unmapped
// then, and a look at it would end the test.
func TestHostile(t *testing.T) {
	ctx := watchdog(t)
	put := func(seg []byte, at int, v uint64) { binary.NativeEndian.PutUint64(seg[at:], v) }
	for _, tt := range []struct {
		name    string
		corrupt bool // surely
		write   func(seg []byte, r *rand.Rand)
	}{
		{"anything anywhere", true, func(seg []byte, r *rand.Rand) { put(seg, r.IntN(len(seg)/8)*8, r.Uint64()) }},
		{"anything in the ring", true, func(seg []byte, r *rand.Rand) {
			put(seg, ring.ControlSize+r.IntN((len(seg)-ring.ControlSize)/8)*8, r.Uint64())
		}},
		{"a word without the ready flag", true, func(seg []byte, r *rand.Rand) { put(seg, ring.ControlSize, 8) }},
		{"a record larger than the ring", true, func(seg []byte, r *rand.Rand) { put(seg, ring.ControlSize, 1<<40|1<<31) }},
		{"a piece without a begin", true, func(seg []byte, r *rand.Rand) { put(seg, ring.ControlSize, 9<<40|8) }},
		{"the bell, without records", false, func(seg []byte, r *rand.Rand) { put(seg, 0x200, r.Uint64()) }},
		{"wishes for space", false, func(seg []byte, r *rand.Rand) { put(seg, 0x180, r.Uint64()|1) }},
		{"all of the control page", false, func(seg []byte, r *rand.Rand) { put(seg, r.IntN(ring.ControlSize/8)*8, r.Uint64()) }},
	} {
		for _, wait := range waits {
			t.Run(tt.name+" "+wait.String(), func(t *testing.T) { hostile(ctx, t, wait, tt.corrupt, tt.write) })
		}
	}
}

func hostile(ctx context.Context, t *testing.T, wait ring.Wait, corrupt bool, write func([]byte, *rand.Rand)) {
	const bad = -1
	var g Consumer[int]
	g.SetWait(wait)

	theirs, err := ring.Create(ring.MinSize)
	require.NoError(t, err)
	defer theirs.Close()
	mapped, err := ring.Open(theirs.File())
	require.NoError(t, err)
	defer mapped.Close()
	ours, err := ring.Create(ring.MinSize)
	require.NoError(t, err)
	defer ours.Close()
	_, c, err := ring.Join(ours.Bytes(), mapped.Bytes())
	require.NoError(t, err)
	require.NoError(t, g.Add(c, bad))

	var all sync.WaitGroup
	defer all.Wait()
	var over atomic.Bool
	defer over.Store(true)
	all.Go(func() {
		r := rand.New(rand.NewPCG(1, rand.Uint64()))
		for !over.Load() {
			write(theirs.Bytes(), r)
			if r.IntN(10) == 0 {
				runtime.Gosched()
			}
		}
	})
	const honest = 3
	count := uint64(scaled(3000))
	for id := range honest {
		p, c := pair(t, ring.MinSize)
		p.SetWait(wait)
		require.NoError(t, g.Add(c, id))
		defer p.Interrupt(errEnd) // if the test fails
		all.Go(func() {
			for n := range count {
				if err := p.Send(ctx, 0, number(n, int(n%50)), nil); err != nil {
					t.Errorf("producer %d: %v", id, err)
					return
				}
				if n%16 == 0 {
					runtime.Gosched()
				}
			}
			c.Interrupt(errEnd)
		})
	}
	var got [honest]uint64
	reports := make(map[int]int)
	for finished := 0; finished < honest || corrupt && reports[bad] == 0; {
		m, id, ok, err := g.Message()
		switch {
		case err != nil && id == bad:
			require.ErrorIs(t, err, ring.ErrCorrupt)
			require.NoError(t, mapped.Close())
			require.NoError(t, ours.Close())
			reports[id]++
		case err != nil:
			require.ErrorIs(t, err, errEnd)
			require.Equal(t, count, got[id])
			reports[id]++
			finished++
		case ok && id != bad:
			require.Equal(t, got[id], numberOf(t, m.Data))
			got[id]++
		case !ok && finished == honest:
			runtime.Gosched() // it does not ring
		case !ok:
			require.NoError(t, g.Wait(ctx))
		}
	}
	for id, n := range reports {
		require.Equal(t, 1, n, "reports of %d", id)
	}
	for id, n := range got {
		require.Equal(t, count, n, "producer %d", id)
	}
	g.Close()
}
