package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandemipc/tandem/ipc"
)

func newMember(seat uint64) *Member {
	return &Member{Slot: seat, RecycleDue: make(chan struct{}), Lost: make(chan struct{})}
}

// schedulerModel drives a scheduler with what callers and seats do, in any order,
// and knows which calls wait and run.
type schedulerModel struct {
	*Scheduler
	now     time.Duration
	seats   uint64
	retired []*Member // with calls that still run
	running []modelCall
	queue   []*Waiter
	served  map[uint64]uint64 // last ticket served, by key
}

type modelCall struct {
	m     *Member
	began time.Duration
}

// tick is the next moment.
func (s *schedulerModel) tick() time.Duration {
	s.now += time.Microsecond
	return s.now
}

func (s *schedulerModel) call(t *rapid.T) {
	key := rapid.SampledFrom([]uint64{0, 0, 0, 1, 2, 3}).Draw(t, "key")
	e := rapid.SampledFrom([]Entry{First, Patient}).Draw(t, "Entry")
	var room bool
	if key == 0 {
		for _, m := range s.members {
			room = room || m.running < s.concurrency
		}
	} else if home := s.owner(key); home != nil {
		room = home.running < s.concurrency
	}
	waiting := len(s.queue)
	now := s.tick()
	m, w, err := s.Acquire(key, e, now)
	switch {
	case room:
		require.NotNil(t, m, "there is room, so the call runs at once")
		if key != 0 {
			require.Same(t, s.owner(key), m)
		} else {
			for _, other := range s.members {
				require.LessOrEqual(t, m.running-1, other.running, "it went to the least busy")
			}
		}
		s.running = append(s.running, modelCall{m, now})
	case waiting >= s.Scheduler.queue && e == First:
		require.Equal(t, ipc.CodeResourceExhausted, ipc.CodeOf(err))
	default:
		require.NotNil(t, w)
		s.queue = append(s.queue, w)
	}
}

func (s *schedulerModel) finish(t *rapid.T) {
	if len(s.running) == 0 {
		t.Skip("nothing runs")
	}
	i := rapid.IntRange(0, len(s.running)-1).Draw(t, "which")
	c := s.running[i]
	s.running = append(s.running[:i:i], s.running[i+1:]...)
	s.Release(c.m, c.began, s.tick(), Outcome{})
}

func (s *schedulerModel) giveUp(t *rapid.T) {
	if len(s.queue) == 0 {
		t.Skip("nothing waits")
	}
	i := rapid.IntRange(0, len(s.queue)-1).Draw(t, "which")
	require.True(t, s.Abandon(s.queue[i]))
	require.False(t, s.Abandon(s.queue[i]), "it waits no longer")
	s.queue = append(s.queue[:i:i], s.queue[i+1:]...)
}

func (s *schedulerModel) join(t *rapid.T) {
	if len(s.members) == 5 {
		t.Skip("enough")
	}
	s.seats++
	s.Join(newMember(s.seats), s.tick())
}

func (s *schedulerModel) someMember(t *rapid.T) *Member {
	if len(s.members) == 0 {
		t.Skip("nobody serves")
	}
	return s.members[rapid.IntRange(0, len(s.members)-1).Draw(t, "member")]
}

func (s *schedulerModel) retire(t *rapid.T) {
	m := s.someMember(t)
	if rapid.Bool().Draw(t, "lost") {
		s.Lose(m, ipc.ErrPeerGone, s.tick())
		<-m.Lost
	}
	s.Leave(m, s.tick())
	s.retired = append(s.retired, m)
}

func (s *schedulerModel) renew(t *rapid.T) {
	old := s.someMember(t)
	s.Replace(old, newMember(old.Slot), s.tick())
	s.retired = append(s.retired, old)
}

// check collects the calls that were served, and looks whether all is well.
func (s *schedulerModel) check(t *rapid.T) {
	left := s.queue[:0]
	for _, w := range s.queue {
		select {
		case <-w.Ready:
			require.NotNil(t, w.Member)
			require.NoError(t, w.Err)
			require.Greater(t, w.ticket, s.served[w.key], "first come, first served")
			s.served[w.key] = w.ticket
			if w.key != 0 {
				require.Equal(t, s.owner(w.key).Slot, w.Member.Slot, "it was served at home")
			}
			s.running = append(s.running, modelCall{w.Member, w.Began})
		default:
			left = append(left, w)
		}
	}
	s.queue = left
	require.Equal(t, len(s.queue), s.queued)
	require.Equal(t, len(s.running), s.runs.level)
	require.Equal(t, len(s.members)*s.concurrency, s.places.level)
	runs := make(map[*Member]int)
	for _, c := range s.running {
		runs[c.m]++
	}
	for _, m := range s.members {
		require.True(t, m.serving)
		require.Equal(t, runs[m], m.running)
		require.LessOrEqual(t, m.running, s.concurrency)
	}
	for _, m := range s.retired {
		require.Equal(t, runs[m], m.running)
		require.Zero(t, m.waiting.Len(), "nobody waits for who does not serve")
	}
	for _, w := range s.queue {
		if w.key == 0 {
			for _, m := range s.members {
				require.Equal(t, s.concurrency, m.running, "a call waits only while all are full")
			}
		} else if home := s.owner(w.key); home != nil {
			require.Equal(t, s.concurrency, home.running, "a call waits only while its home is full")
		}
	}
}

func TestSchedulerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &schedulerModel{
			Scheduler: New(rapid.IntRange(1, 3).Draw(t, "concurrency"), rapid.IntRange(0, 6).Draw(t, "queue"), 0, func() {}),
			served:    make(map[uint64]uint64),
		}
		t.Repeat(map[string]func(*rapid.T){
			"call": s.call, "call again": s.call, "finish": s.finish, "give up": s.giveUp,
			"join": s.join, "retire": s.retire, "renew": s.renew, "": s.check,
		})
		// Once somebody serves, all that wait are served; then nothing is left.
		if len(s.members) == 0 {
			s.join(t)
		}
		quiet := s.Close()
		_, _, err := s.Acquire(0, Patient, s.tick())
		require.ErrorIs(t, err, ipc.ErrClosed)
		for s.check(t); len(s.running) > 0; s.check(t) {
			c := s.running[0]
			s.running = s.running[1:]
			s.Release(c.m, c.began, s.tick(), Outcome{})
		}
		require.Empty(t, s.queue)
		<-quiet
		for _, m := range append(s.retired, s.members...) {
			s.Leave(m, s.tick())
			<-s.Drained(m)
		}
		require.Zero(t, s.places.level)
	})
}

// A member that joins takes keys from the others and moves none between them.
func TestKeysStick(t *testing.T) {
	s := New(1, 0, 0, func() {})
	for seat := range uint64(8) {
		s.Join(newMember(seat), 0)
	}
	homes := func() map[uint64]uint64 {
		m := make(map[uint64]uint64)
		for key := uint64(1); key <= 4000; key++ {
			m[key] = s.owner(key).Slot
		}
		return m
	}
	before := homes()
	perSeat := make(map[uint64]int)
	for _, seat := range before {
		perSeat[seat]++
	}
	for seat := range uint64(8) {
		require.InDelta(t, 500, perSeat[seat], 150, "keys of seat %d", seat)
	}

	joined := newMember(8)
	s.Join(joined, 0)
	moved := 0
	for key, seat := range homes() {
		if seat != before[key] {
			require.EqualValues(t, 8, seat)
			moved++
		}
	}
	require.InDelta(t, 4000/9, moved, 150)
	s.Leave(joined, 0)
	require.Equal(t, before, homes(), "who leaves gives back what it took")

	s.Replace(s.members[3], newMember(3), 0)
	require.Equal(t, before, homes(), "a successor inherits")
}

func TestSchedulerDown(t *testing.T) {
	s := New(1, 5, 0, func() {})
	var waiting []*Waiter
	for key := range uint64(3) {
		_, w, err := s.Acquire(key, First, 0)
		require.NoError(t, err, "while nobody serves calls wait")
		waiting = append(waiting, w)
	}
	quiet := s.Close()
	s.closed = false
	gone := fmt.Errorf("all gone")
	s.SetDown(gone)
	for _, w := range waiting {
		<-w.Ready
		require.Equal(t, gone, w.Err)
	}
	<-quiet
	_, _, err := s.Acquire(0, Patient, 0)
	require.Equal(t, gone, err)
	s.SetDown(nil)
	_, w, err := s.Acquire(0, Patient, 0)
	require.NoError(t, err)
	s.Join(newMember(1), 7)
	<-w.Ready
	require.Equal(t, 7*time.Nanosecond, w.Began)
}

func TestArea(t *testing.T) {
	var a area
	a.change(2, 10)
	a.change(1, 20)
	a.change(-3, 30)
	require.Equal(t, 50*time.Nanosecond, a.until(30))
	require.Equal(t, 50*time.Nanosecond, a.until(100))
}

// A member that has left calls without an answer is the last to get others until it answers. What
// was given up, and may have had an answer, changes nothing of that.
func TestUnresponsiveMembersAreLast(t *testing.T) {
	s := New(2, 0, 0, func() {})
	slow, other := newMember(0), newMember(1)
	s.Join(slow, 0)
	run := func(o Outcome) *Member {
		m, _, err := s.Acquire(0, First, 0)
		require.NoError(t, err)
		s.Release(m, 0, 0, o)
		return m
	}
	require.Same(t, slow, run(Outcome{Failed: true, Unresponsive: true}))
	require.Same(t, slow, run(Outcome{Unknown: true}))
	s.Join(other, 0)
	require.Same(t, other, run(Outcome{Unknown: true}))
	s.Leave(other, 0)
	require.Same(t, slow, run(Outcome{}))
	s.Join(other, 0)
	require.Same(t, slow, run(Outcome{}), "it has answered")
}
