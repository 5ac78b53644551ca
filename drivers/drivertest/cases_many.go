package drivertest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tandemipc/tandem/drivers"
)

var manyCases = []testCase{
	{"TwoLinks", testTwoLinks},
	{"SpawnConcurrently", testSpawnConcurrently},
	{"NothingStays", testNothingStays},
}

// testTwoLinks: links of one process do not disturb each other, also when one
// of them ends.
func testTwoLinks(t *testing.T, s *suite) {
	a, b := s.start(t, script{Do: "mirror"}), s.start(t, script{Do: "mirror"})
	for i := range uint64(500) {
		a.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i, Payload: payload(i, 1000)})
		b.send(drivers.Frame{Kind: drivers.KindNotify, Tx: i + 1, Payload: payload(i+1, 500)})
		if f := b.receive(); f.Tx != i+1 || len(f.Payload) != 500 || checkPattern(i+1, f.Payload) != nil {
			t.Fatalf("got frame %d of %d bytes, want %d of 500", f.Tx, len(f.Payload), i+1)
		}
		if f := a.receive(); f.Tx != i || len(f.Payload) != 1000 || checkPattern(i, f.Payload) != nil {
			t.Fatalf("got frame %d of %d bytes, want %d of 1000", f.Tx, len(f.Payload), i)
		}
	}
	kill(t, a)
	a.dead()
	b.echo(1, 100<<10)
	b.end()
}

// testSpawnConcurrently: workers can be started at the same time.
func testSpawnConcurrently(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range uint64(8) {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p, err := s.tryStart(ctx, t, script{Do: "mirror"})
			if !assert.NoError(t, err) {
				return
			}
			p.link = <-p.links
			if assert.NoError(t, p.link.Send(ctx, &drivers.Frame{Kind: drivers.KindNotify, Tx: i})) {
				f, err := receive(p.link)
				assert.NoError(t, err)
				assert.Equal(t, i, f.Tx)
			}
			assert.NoError(t, p.link.Close())
			assert.NoError(t, p.channel.Close())
			<-p.process.Done()
			assert.Zero(t, p.process.Exit().Code)
		})
	}
	wg.Wait()
}

// testNothingStays: links that have ended leave nothing behind, whichever way
// they ended.
func testNothingStays(t *testing.T, s *suite) {
	var before *Baseline
	for i := range 22 {
		if i == 2 {
			before = NewBaseline() // what a process needs once is there by now
		}
		p := s.start(t, script{Do: "mirror"})
		p.echo(1, 10<<10)
		switch i % 3 {
		case 0:
			p.end()
		case 1:
			p.link.Shutdown()
			p.end()
		case 2:
			kill(t, p)
			p.dead()
		}
		p.stdin.Close()
		p.stdout.Close()
	}
	assert.Empty(t, before.Leaks())
}
