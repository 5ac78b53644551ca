package gather

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring"
)

var errEnd = errors.New("end")

// drain calls Next until there is nothing, and returns how many records and reports came.
func drain(t *testing.T, g *Consumer[int]) (records, reports map[int]int) {
	records, reports = make(map[int]int), make(map[int]int)
	for {
		r, id, ok, err := g.Next()
		switch {
		case err != nil:
			require.False(t, ok)
			require.Nil(t, r.Data)
			reports[id]++
		case ok:
			require.Equal(t, uint64(records[id]), numberOf(t, r.Data))
			records[id]++
		default:
			return records, reports
		}
	}
}

func TestNobody(t *testing.T) {
	var g Consumer[string]
	_, _, ok, err := g.Next()
	require.False(t, ok)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, g.Wait(ctx), context.Canceled)
	require.Zero(t, g.Len())
	require.False(t, g.Remove("who"))
	require.Equal(t, ring.Lease{}, g.Lease())
	require.Panics(t, func() { g.SetQuantum(0, 1) })
	require.Panics(t, func() { g.SetQuantum(1, 0) })
}

func TestAddAndRemove(t *testing.T) {
	ctx := watchdog(t)
	var g Consumer[string]
	p, c := pair(t, ring.MinSize)
	require.NoError(t, g.Add(c, "a"))
	_, c2 := pair(t, ring.MinSize)
	require.ErrorIs(t, g.Add(c2, "a"), ErrPresent)
	require.NoError(t, g.Wait(ctx), "to take it in")
	require.NoError(t, p.Write(7, []byte("record")))
	r, id, ok, err := g.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "a", id)
	require.EqualValues(t, 7, r.Tag)
	require.Equal(t, "record", string(r.Data))

	require.NoError(t, p.Write(7, []byte("unread")))
	require.True(t, g.Remove("a"))
	require.True(t, g.Remove("a"), "it is not reported yet")
	require.ErrorIs(t, g.Add(c2, "a"), ErrPresent)
	require.NoError(t, g.Wait(ctx))
	for { // what is left of its turn may still come
		_, id, ok, err = g.Next()
		if err != nil || !ok {
			break
		}
	}
	require.ErrorIs(t, err, ErrRemoved)
	require.Equal(t, "a", id)
	require.False(t, g.Remove("a"))
	require.Zero(t, g.Len())
	_, _, ok, err = g.Next()
	require.False(t, ok)
	require.NoError(t, err)

	// It can come back, and its ring with it.
	require.NoError(t, g.Add(c, "a"))
	require.NoError(t, p.Write(7, []byte("again")))
	_, id, ok, err = g.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "a", id)
	// Added and removed before the reader has seen it.
	require.NoError(t, g.Add(c2, "b"))
	require.True(t, g.Remove("b"))
	for {
		if _, id, ok, err = g.Next(); err != nil || !ok {
			break
		}
	}
	require.ErrorIs(t, err, ErrRemoved)
	require.Equal(t, "b", id)

	g.Close()
	g.Close()
	_, _, ok, err = g.Next()
	require.False(t, ok)
	require.NoError(t, err)
	for range 3 { // it may return early
		err = g.Wait(ctx)
	}
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, g.Add(c, "a"), ErrClosed)
	var other ring.Group
	other.Add(c) // it is nobody's
}

// An interrupted producer is reported once, after what it had published.
func TestInterrupted(t *testing.T) {
	for _, many := range []int{1, 2, 5} {
		var g Consumer[int]
		var rings []*ring.Consumer
		for id := range many {
			p, c := pair(t, 64<<10)
			for n := range uint64(1000) {
				require.NoError(t, p.Write(0, number(n, 10)))
			}
			require.NoError(t, p.Append(0, number(1000, 10)), "committed, and not published")
			buf, err := p.TryClaim(100)
			require.NoError(t, err)
			copy(buf, "half a record")
			require.NoError(t, g.Add(c, id))
			rings = append(rings, c)
		}
		rings[0].Interrupt(errEnd)
		records, reports := drain(t, &g)
		require.Equal(t, map[int]int{0: 1}, reports)
		for id := range many {
			require.Equal(t, 1000, records[id])
		}
		require.Equal(t, many-1, g.Len())
		for _, c := range rings[1:] {
			c.Interrupt(errEnd)
		}
		if many > 1 {
			require.NoError(t, g.Wait(watchdog(t)))
		}
		_, reports = drain(t, &g)
		require.Len(t, reports, many-1)
		require.Zero(t, g.Len())
	}
}

// A producer that publishes on after it was interrupted is reported all the same, and what it
// had published before is read.
func TestInterruptedButAlive(t *testing.T) {
	var g Consumer[int]
	p, c := pair(t, ring.MinSize)
	require.NoError(t, g.Add(c, 1))
	var sent, got uint64
	fill := func() {
		for p.Write(0, number(sent, 20)) == nil {
			sent++
		}
	}
	fill()
	c.Interrupt(errEnd)
	before := sent
	for {
		r, _, ok, err := g.Next()
		if err != nil {
			require.ErrorIs(t, err, errEnd)
			break
		}
		require.True(t, ok)
		require.Equal(t, got, numberOf(t, r.Data))
		got++
		require.Less(t, got, before+10*ring.MinSize, "it is never reported")
		fill()
	}
	require.GreaterOrEqual(t, got, before)
}

// What is published just before the interrupt is read, whatever moment the reader has come to.
func TestLastRecordBeforeTheEnd(t *testing.T) {
	for range scaled(2000) {
		var g Consumer[int]
		p, c := pair(t, ring.MinSize)
		require.NoError(t, g.Add(c, 1))
		_, _, ok, err := g.Next()
		require.False(t, ok)
		require.NoError(t, err)
		go func() {
			_ = p.Write(0, nil)
			c.Interrupt(errEnd)
		}()
		got := 0
		for {
			if _, _, ok, err = g.Next(); err != nil {
				break
			}
			if ok {
				got++
			} else if runtime.GOMAXPROCS(0) == 1 {
				runtime.Gosched()
			}
		}
		require.Equal(t, 1, got)
	}
}

// When one is out it is the turn of the next one, and of none twice before that.
func TestTurnAfterAnEnd(t *testing.T) {
	for _, out := range []int{0, 1, 2, 3, 4} {
		var g Consumer[int]
		g.SetQuantum(1, 1000)
		for id := range 5 {
			p, c := pair(t, ring.MinSize)
			for n := range uint64(10) {
				require.NoError(t, p.Write(0, number(n, 0)))
			}
			require.NoError(t, g.Add(c, id))
		}
		turn := func() (id int) {
			_, id, ok, err := g.Next()
			require.NoError(t, err)
			require.True(t, ok)
			return id
		}
		first := turn()
		var rest []int
		for range 4 {
			if id := turn(); id != out {
				rest = append(rest, id)
			}
		}
		if first != out {
			rest = append([]int{first}, rest...)
		}
		require.True(t, g.Remove(out))
		_, id, _, err := g.Next()
		require.ErrorIs(t, err, ErrRemoved)
		require.Equal(t, out, id)
		for range 3 {
			for _, want := range rest {
				require.Equal(t, want, turn())
			}
		}
	}
}

// A producer that ends before its removal is noticed is reported once.
func TestRemovedAndEnded(t *testing.T) {
	var g Consumer[int]
	p, c := pair(t, ring.MinSize)
	require.NoError(t, g.Add(c, 1))
	require.NoError(t, p.Write(0, number(0, 0)))
	_, _, ok, err := g.Next()
	require.True(t, ok)
	require.NoError(t, err)
	c.Interrupt(errEnd)
	require.True(t, g.Remove(1))
	_, reports := drain(t, &g)
	require.Equal(t, map[int]int{1: 1}, reports)
	require.Zero(t, g.Len())
}

func TestMessages(t *testing.T) {
	ctx := watchdog(t)
	var g Consumer[int]
	const count = 20
	var all sync.WaitGroup
	for id := range 3 {
		p, c := pair(t, ring.MinSize)
		require.NoError(t, g.Add(c, id))
		all.Go(func() {
			for n := range uint64(count) {
				if err := p.Send(ctx, byte(id), nil, number(n, int(n)*1000*id)); err != nil {
					t.Error(err)
				}
			}
			// Half a message, as of a producer that dies.
			if id == 2 {
				ended, cancel := context.WithCancel(ctx)
				cancel()
				if err := p.Send(ended, 0, nil, make([]byte, 1<<20)); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			c.Interrupt(errEnd)
		})
	}
	got := make(map[int]uint64)
	for g.Len() > 0 {
		m, id, ok, err := g.Message()
		switch {
		case err != nil:
			require.ErrorIs(t, err, errEnd)
		case ok:
			require.Equal(t, byte(id), m.Tag)
			require.Equal(t, got[id], numberOf(t, m.Data))
			require.Len(t, m.Data, 8+int(got[id])*1000*id)
			got[id]++
		default:
			require.NoError(t, g.Wait(ctx))
		}
	}
	all.Wait()
	require.Equal(t, map[int]uint64{0: count, 1: count, 2: count}, got)
}

// What follows a large message is read, too, when its producer is gone, though the message is larger
// than its ring and than a quantum.
func TestLargeMessageAtTheEnd(t *testing.T) {
	ctx := watchdog(t)
	large := make([]byte, 2*DefaultBytes)
	for range scaled(500) {
		var g Consumer[int]
		p, c := pair(t, ring.MinSize)
		require.NoError(t, g.Add(c, 1))
		go func() {
			if err := p.Send(ctx, 0, nil, large); err != nil {
				t.Error(err)
			}
			for range 10 {
				if err := p.Send(ctx, 1, nil, nil); err != nil {
					t.Error(err)
				}
			}
			c.Interrupt(errEnd)
		}()
		got := 0
		for {
			m, _, ok, err := g.Message()
			if err != nil {
				require.ErrorIs(t, err, errEnd)
				break
			}
			if ok {
				require.Equal(t, got > 0, m.Tag == 1)
				got++
			} else {
				require.NoError(t, g.Wait(ctx))
			}
		}
		require.Equal(t, 11, got)
	}
}

func TestLease(t *testing.T) {
	var g Consumer[int]
	var producers []*ring.Producer
	for id := range 2 {
		p, c := pair(t, ring.MinSize)
		require.NoError(t, g.Add(c, id))
		producers = append(producers, p)
	}
	require.NoError(t, producers[0].Write(0, []byte("kept")))
	r, _, ok, err := g.Next()
	require.NoError(t, err)
	require.True(t, ok)
	lease := g.Lease()
	for range 10000 { // the leased record bounds what its producer can write
		for _, p := range producers {
			if err := p.Write(0, []byte("more")); err != nil {
				require.ErrorIs(t, err, ring.ErrFull)
			}
		}
		_, _, _, err = g.Next()
		require.NoError(t, err)
	}
	require.Equal(t, "kept", string(r.Data))
	require.ErrorIs(t, producers[0].Write(0, []byte("more")), ring.ErrFull)
	lease.Release()
	for range 2000 {
		_, _, _, err = g.Next()
		require.NoError(t, err)
	}
	require.NoError(t, producers[0].Write(0, []byte("more")))
}

// Next and Message allocate nothing, whether there is something or not.
func TestNextAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	var g Consumer[string]
	var producers []*ring.Producer
	for _, id := range []string{"a", "b", "c"} {
		p, c := pair(t, 64<<10)
		require.NoError(t, g.Add(c, id))
		producers = append(producers, p)
	}
	payload := make([]byte, 50)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		for _, p := range producers {
			_ = p.Write(0, payload)
		}
		for range 2 {
			_, _, _, _ = g.Next()
			_, _, _, _ = g.Message()
		}
	}))
}

// While nobody publishes, Wait does not return.
func TestWaitReturnsForRecordsOnly(t *testing.T) {
	ctx := watchdog(t)
	for _, wait := range waits {
		var g Consumer[int]
		g.SetWait(wait)
		var producers []*ring.Producer
		for id := range 16 {
			p, c := pair(t, ring.MinSize)
			require.NoError(t, g.Add(c, id))
			producers = append(producers, p)
		}
		_, _, ok, err := g.Next() // takes them in
		require.False(t, ok)
		require.NoError(t, err)
		read := make(chan int)
		waited := 0
		go func() {
			defer close(read)
			for {
				_, id, ok, _ := g.Next()
				if ok {
					read <- id
					continue
				}
				waited++
				if g.Wait(ctx) != nil {
					return
				}
			}
		}()
		rounds := scaled(2000)
		for range rounds {
			from := rand.IntN(len(producers))
			require.NoError(t, producers[from].Write(0, nil))
			require.Equal(t, from, <-read)
		}
		g.Interrupt(errEnd)
		<-read
		require.LessOrEqual(t, waited, rounds+2, "and one for each Add, which is over by now, and one for Interrupt")
	}
}
