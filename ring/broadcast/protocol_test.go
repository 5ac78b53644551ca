package broadcast

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// protocol is the state of the algorithm that waker.go draws, for one reader, a writer that publishes
// some records, and wakers. Each step is one access of memory that others see. All of it is
// comparable, so that states can be told apart.
type protocol struct {
	records   int  // the words that are stored
	published int  // the word of that name: twice the number, and one more in progress
	waiting   int  // the reader's epoch, 0 if it is not parked
	rung      int  // the epoch that was rung for last
	bell      int  // the writer's
	state     int  // the waker's
	spawned   int  // wakers that have not run yet
	writer    int  // the next step of each
	written   int  // by the writer
	reader    int  //
	read      int  //
	epoch     int  //
	seenBell  int  //
	asleep    bool //
	wakers    [2]wakerModel
}

type wakerModel struct {
	step, seen, now int
	parked          int // the epoch that it rings for, 0 for none
}

const modelRecords = 2

// next returns all states that may follow. broken leaves something out that the algorithm needs.
func (p protocol) next(broken string) (all []protocol) {
	add := func(f func(p *protocol)) {
		q := p
		f(&q)
		all = append(all, q)
	}
	switch p.writer { // Publish
	case 0:
		if p.written < modelRecords {
			add(func(p *protocol) {
				p.written++
				p.published = 2*p.written + 1
				if broken == "no mark of progress" {
					p.published = 2 * p.written
				}
				p.writer = 1
			})
		}
	case 1:
		add(func(p *protocol) { p.records = p.written; p.writer = 2 })
	case 2:
		add(func(p *protocol) {
			p.writer = 3
			if p.state != wakerAsleep {
				p.writer = 5 // unseen aside
			}
		})
	case 3:
		add(func(p *protocol) {
			p.writer = 5
			if p.waiting != 0 && p.waiting != p.rung {
				p.writer = 4
			}
		})
	case 4:
		add(func(p *protocol) {
			if p.state == wakerAsleep || broken == "two wakers" {
				p.state = wakerStarting
				p.spawned++
			}
			p.writer = 5
		})
	case 5:
		add(func(p *protocol) { p.published = 2 * p.written; p.writer = 0 })
	}
	for i := range p.wakers {
		k := p.wakers[i]
		set := func(p *protocol) *wakerModel { return &p.wakers[i] }
		switch k.step {
		case 0:
			if p.spawned > 0 {
				add(func(p *protocol) { p.spawned--; p.state = wakerAwake; *set(p) = wakerModel{step: 1, seen: 1} })
			}
		case 1: // load published
			add(func(p *protocol) {
				k := set(p)
				k.now = p.published
				k.step = 2
				if k.now == k.seen && k.now%2 == 0 {
					k.step = 5
				}
			})
		case 2: // look at the reader
			add(func(p *protocol) {
				k := set(p)
				k.seen = k.now
				k.step = 1
				if p.waiting != 0 && p.waiting != p.rung {
					k.parked = p.waiting
					p.rung = p.waiting
					k.step = 3
				}
			})
		case 3: // the bell, then the wake
			add(func(p *protocol) { p.bell++; set(p).step = 4 })
		case 4:
			add(func(p *protocol) { p.asleep = false; *set(p) = wakerModel{step: 1, seen: set(p).seen} })
		case 5: // nothing new for a while
			add(func(p *protocol) { p.state = wakerAsleep; set(p).step = 6 })
			add(func(p *protocol) { set(p).step = 1 }) // or not yet
		case 6:
			add(func(p *protocol) {
				k := set(p)
				if p.published == k.seen && p.published%2 == 0 || broken == "no last look" {
					*k = wakerModel{}
				} else {
					k.step = 7
				}
			})
		case 7:
			add(func(p *protocol) {
				k := set(p)
				if p.state == wakerAsleep {
					p.state = wakerAwake
					k.step = 1
				} else {
					*k = wakerModel{}
				}
			})
		}
	}
	switch p.reader { // Reader.park
	case 0:
		add(func(p *protocol) {
			p.seenBell = p.bell
			p.reader = 1
			if broken == "the bell is loaded late" {
				p.reader = 5
			}
		})
	case 1, 5:
		add(func(p *protocol) { p.epoch++; p.waiting = p.epoch; p.reader++ })
	case 6:
		add(func(p *protocol) { p.seenBell = p.bell; p.reader = 2 })
	case 2:
		add(func(p *protocol) {
			p.reader = 3
			if p.read < p.records {
				p.read = p.records
				p.waiting = 0
				p.reader = 0
			}
		})
	case 3: // FUTEX_WAIT: begins only if the bell is what it was
		add(func(p *protocol) {
			p.reader = 4
			p.asleep = p.bell == p.seenBell
		})
	case 4:
		if !p.asleep {
			add(func(p *protocol) { p.reader = 0 })
		}
	}
	return all
}

// lostWakeUp explores all orders of steps, and reports whether one of them ends with a reader that sleeps though
// there is something to read, or has two wakers at work at once. It returns how many states there are.
func lostWakeUp(broken string) (lost bool, states int) {
	begin := protocol{published: 0}
	seen := map[protocol]bool{begin: true}
	open := []protocol{begin}
	for len(open) > 0 {
		p := open[len(open)-1]
		open = open[:len(open)-1]
		// Everybody but the reader is done, and the reader sleeps.
		idle := p.writer == 0 && p.written == modelRecords && p.spawned == 0 && p.wakers == [2]wakerModel{}
		if idle && p.asleep && p.read < p.records {
			lost = true
		}
		wakers := p.spawned
		for _, k := range p.wakers {
			if k.step >= 1 && k.step <= 5 {
				wakers++
			}
		}
		if wakers > 1 {
			return true, len(seen)
		}
		for _, q := range p.next(broken) {
			// What may go round for ever is cut off: a reader that looks in vain arms anew, but
			// the epoch only matters by whether it is the one that was rung for.
			q.normalise()
			if !seen[q] {
				seen[q] = true
				open = append(open, q)
			}
		}
	}
	return lost, len(seen)
}

// normalise renames epochs and bells, of which only equality matters.
func (p *protocol) normalise() {
	for i := range p.wakers {
		p.wakers[i].parked = 0
	}
	switch {
	case p.waiting == 0:
		p.epoch, p.rung = 1, 1
	case p.waiting == p.rung:
		p.waiting, p.rung, p.epoch = 1, 1, 1
	default:
		p.waiting, p.rung, p.epoch = 2, 1, 2
	}
	if p.reader == 0 || p.reader == 4 || p.reader > 4 && p.reader < 6 {
		p.seenBell = p.bell // it is not looked at any more
	}
	if p.bell != p.seenBell {
		p.bell, p.seenBell = 1, 0
	} else {
		p.bell, p.seenBell = 0, 0
	}
}

// In all orders of the steps of a writer, its wakers and a reader, no wake-up is lost. Without one of
// the parts that the argument in docs/memory-model.md uses, one is.
func TestProtocol(t *testing.T) {
	lost, states := lostWakeUp("")
	require.False(t, lost)
	require.Greater(t, states, 1000)
	for _, broken := range []string{"no mark of progress", "no last look", "the bell is loaded late", "two wakers"} {
		lost, _ := lostWakeUp(broken)
		require.True(t, lost, broken)
	}
}
