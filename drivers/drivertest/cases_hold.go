package drivertest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
)

var holdCases = []testCase{
	{"Hold", testHold},
	{"HoldToTheEnd", testHoldToTheEnd},
	{"Recycle", testRecycle},
	{"More", testMore},
}

// testHold: payloads that are held stay as they are though many frames are read after
// them, and are let go in any order, by anybody.
func testHold(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	const rounds, later = 50, 40
	type lent struct {
		f       drivers.Frame
		release func()
	}
	tx := uint64(0)
	var wg sync.WaitGroup
	defer wg.Wait()
	for round := range rounds {
		var all []lent
		for i := range 1 + round%4 {
			tx++
			p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, 10<<(2*i)+round)})
			f := p.receive()
			require.Equal(t, tx, f.Tx)
			all = append(all, lent{f, p.link.Hold()})
			for range later { // not so much that a link has no more room
				tx++
				p.echo(tx, 300)
			}
		}
		for i := range all {
			l := all[(i*7+round)%len(all)]
			if len(all)%2 == 0 { // 7 is odd, so each one has its turn
				l = all[i^1]
			}
			if len(all) == 3 {
				l = all[2-i]
			}
			require.NoError(t, checkPattern(l.f.Tx, l.f.Payload), "a payload that is held has changed")
			if round%2 == 0 {
				l.release()
			} else {
				wg.Go(l.release)
			}
		}
	}
	wg.Wait()
	p.echo(tx+1, 4<<20) // there is room as ever
	p.end()
}

// testHoldToTheEnd: a hold may outlast its link.
func testHoldToTheEnd(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	var releases []func()
	var frames []drivers.Frame
	for tx := range uint64(20) {
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: tx, Payload: payload(tx, int(tx)*100)})
		frames = append(frames, p.receive())
		releases = append(releases, p.link.Hold())
	}
	releases[3]()
	p.link.Shutdown()
	for i, f := range frames[4:] {
		require.NoError(t, checkPattern(f.Tx, f.Payload), "frame %d", i)
	}
	releases[4]()
	p.end()
	for _, release := range releases[5:] {
		release()
	}
	releases[0]()
}

// testRecycle: memory that is given back is used for later frames or not, and no frame
// is the worse for it.
func testRecycle(t *testing.T, s *suite) {
	p := s.start(t, script{Do: "mirror"})
	var kept []drivers.Frame
	for i := range uint64(40) {
		size := []int{3 << 20, 70 << 10, 600 << 10, 1<<20 + 100}[i%4]
		p.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: payload(i, size)})
		f := p.receive()
		require.Len(t, f.Payload, size)
		require.NoError(t, checkPattern(i, f.Payload))
		switch {
		case !f.Owned:
		case i%3 == 0:
			kept = append(kept, f)
		default:
			clear(f.Payload)
			p.link.Recycle(f.Payload[i:])
		}
		p.link.Recycle(nil)
		p.link.Recycle(make([]byte, 100<<10)) // any other will do
	}
	for _, f := range kept {
		require.NoError(t, checkPattern(f.Tx, f.Payload), "memory that was not given back is used")
	}
	p.end()
}

// testMore: where a frame says that there is another one, there is.
func testMore(t *testing.T, s *suite) {
	const n = 20_000
	p := s.start(t, script{Do: "source", N: n, Size: 20 << 10, Random: true, Then: "close"})
	more, said := false, 0
	for i := uint64(0); ; {
		f, ok, err := look(p.link)
		if more {
			// A large one may be on its way still.
			for !ok && err == nil {
				f, ok, err = look(p.link)
			}
		}
		if err != nil {
			require.EqualValues(t, n, i)
			require.True(t, ended(err), "%v", err)
			break
		}
		if !ok {
			continue
		}
		require.Equal(t, i, f.Tx)
		i++
		if more = f.More; more {
			said++
		}
		if i == n {
			require.False(t, f.More, "this was the last one")
			p.expect("sent")
			p.expect("closed")
		}
	}
	t.Logf("%d of %d frames said that there was more", said, n)
	p.link.Shutdown()
	p.tell("done")
	p.end()
}
