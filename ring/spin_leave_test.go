package ring

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ring/internal/wait"
)

// leaver waits for data with c and for space with p, and leaves the wait while its
// spinner holds a slot.
type leaver struct {
	*testing.T
	memory []byte    // what c reads
	writer *Producer // of that
	c      *Consumer
	p      *Producer
	reader *Consumer // of what p writes
}

// freshSlots makes the slots as they are at the start of a process, now and after
// the test.
func freshSlots(t *testing.T) {
	wait.ResetSlots()
	t.Cleanup(wait.ResetSlots)
}

// patient gives s a budget that no test exhausts: a slot that s holds is not
// freed by its deadline.
func patient(s *wait.Spinner) {
	s.Begin()
	s.SetBudget(time.Hour)
}

func newLeaver(t *testing.T) *leaver {
	a, b := newSegment(t, MinSize, 0), newSegment(t, MinSize, 0)
	l := &leaver{T: t, memory: a}
	var err error
	l.writer, l.reader, err = Join(a, b)
	require.NoError(t, err)
	l.p, l.c, err = Join(b, a)
	require.NoError(t, err)
	l.c.spinAt = l.c.next
	patient(&l.c.spin)
	patient(&l.p.spin)
	return l
}

// poll polls until the consumer's spinner holds a slot.
func (l *leaver) poll() {
	for !l.c.spin.Holds() {
		require.True(l, l.c.Spin())
	}
}

func (l *leaver) corrupt() { atomic.StoreUint64(u64At(l.memory, ControlSize), 1) }

// wait calls Wait, and leave in another goroutine once Wait holds a slot. It returns
// Wait's error.
func (l *leaver) wait(ctx context.Context, leave func()) error {
	return l.leaveWhen(func() error { return l.c.Wait(ctx) }, leave)
}

// waitSpace is wait for WaitSpace.
func (l *leaver) waitSpace(ctx context.Context, leave func()) error {
	l.fill()
	return l.leaveWhen(func() error { return l.p.WaitSpace(ctx, 1000) }, leave)
}

func (l *leaver) fill() {
	for l.p.Write(1, make([]byte, 1000)) == nil {
	}
}

func (l *leaver) leaveWhen(await func() error, leave func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait.SlotsTaken() == 0 {
			runtime.Gosched()
		}
		leave()
	}()
	err := await()
	<-done
	return err
}

// breaking is a context whose Err calls f once a spin slot is taken.
type breaking struct {
	context.Context
	f func()
}

func (b breaking) Err() error {
	if wait.SlotsTaken() > 0 {
		b.f()
	}
	return nil
}

var errLeft = errors.New("left")

// waysToLeave are all ways of leaving a wait that return the slot at once.
var waysToLeave = map[string]func(l *leaver){
	"a record": func(l *leaver) {
		l.poll()
		require.NoError(l, l.writer.Write(1, nil))
		_, ok, err := l.c.Next()
		require.True(l, ok)
		require.NoError(l, err)
	},
	"a part of a message": func(l *leaver) {
		l.poll()
		require.NoError(l, l.writer.appendSlow(flagMore, 1, []byte{9, 0, 0, 0, 0, 0, 0, 0}, nil))
		l.writer.Publish()
		_, ok, err := l.c.Message()
		require.False(l, ok)
		require.NoError(l, err)
	},
	"a corrupt ring": func(l *leaver) {
		l.poll()
		l.corrupt()
		_, _, err := l.c.Next()
		require.ErrorIs(l, err, ErrCorrupt)
	},
	"a ring that was corrupt before": func(l *leaver) {
		l.poll()
		l.corrupt()
		_, _, err := l.c.Next()
		require.ErrorIs(l, err, ErrCorrupt)
		patient(&l.c.spin)
		l.poll()
		_, _, err = l.c.Next()
		require.ErrorIs(l, err, ErrCorrupt)
	},
	"a message that breaks the rules": func(l *leaver) {
		l.poll()
		require.NoError(l, l.writer.appendSlow(flagCont, 1, nil, nil))
		l.writer.Publish()
		_, _, err := l.c.Message()
		require.ErrorIs(l, err, ErrCorrupt)
	},
	"StopSpinning":       func(l *leaver) { l.poll(); l.c.StopSpinning() },
	"StopSpinning twice": func(l *leaver) { l.poll(); l.c.StopSpinning(); l.c.StopSpinning() },
	"Arm":                func(l *leaver) { l.poll(); l.c.Arm() },
	"Arm and Disarm":     func(l *leaver) { l.poll(); l.c.Arm(); l.c.Disarm() },
	"SetWait":            func(l *leaver) { l.poll(); l.c.SetWait(Wait(rand.IntN(3))) },
	"the end of the budget": func(l *leaver) {
		l.poll()
		l.c.spin.SetLimit(1)
		for l.c.Spin() {
		}
	},
	"Wait: a record": func(l *leaver) {
		require.NoError(l, l.wait(l.Context(), func() {
			if err := l.writer.Write(1, nil); err != nil {
				l.Error(err)
			}
		}))
	},
	"Wait: a corrupt ring": func(l *leaver) {
		require.NoError(l, l.wait(l.Context(), l.corrupt), "Next has the error")
	},
	"Wait: the end of its context": func(l *leaver) {
		ctx, cancel := context.WithCancel(l.Context())
		require.ErrorIs(l, l.wait(ctx, cancel), context.Canceled)
	},
	"Wait: Interrupt": func(l *leaver) {
		require.Equal(l, errLeft, l.wait(l.Context(), func() { l.c.Interrupt(errLeft) }))
	},
	"Wait: a park": func(l *leaver) {
		l.c.spin.SetBudget(wait.SpinMax)
		done := make(chan error)
		go func() { done <- l.c.Wait(l.Context()) }()
		untilAsleep(&l.c.sleep)
		require.NoError(l, l.writer.Write(1, nil))
		require.NoError(l, <-done)
	},
	"Wait: a panic": func(l *leaver) {
		ctx := breaking{l.Context(), func() { panic(errLeft) }}
		require.PanicsWithValue(l, errLeft, func() { l.c.Wait(ctx) })
	},
	"Wait: the end of its goroutine": func(l *leaver) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.c.Wait(breaking{l.Context(), runtime.Goexit})
		}()
		<-done
	},
	"WaitSpace: space": func(l *leaver) {
		require.NoError(l, l.waitSpace(l.Context(), func() {
			l.reader.Next()
			l.reader.Next()
			l.reader.Release()
		}))
	},
	"WaitSpace: a corrupt ring": func(l *leaver) {
		require.ErrorIs(l, l.waitSpace(l.Context(), func() {
			atomic.StoreUint64(u64At(l.memory, offConsumerPosition), 4)
		}), ErrCorrupt)
	},
	"WaitSpace: the end of its context": func(l *leaver) {
		ctx, cancel := context.WithCancel(l.Context())
		require.ErrorIs(l, l.waitSpace(ctx, cancel), context.Canceled)
	},
	"WaitSpace: Interrupt": func(l *leaver) {
		require.Equal(l, errLeft, l.waitSpace(l.Context(), func() { l.p.Interrupt(errLeft) }))
	},
	"WaitSpace: a panic": func(l *leaver) {
		l.fill()
		ctx := breaking{l.Context(), func() { panic(errLeft) }}
		require.PanicsWithValue(l, errLeft, func() { l.p.WaitSpace(ctx, 1000) })
	},
	"WaitSpace: the end of its goroutine": func(l *leaver) {
		l.fill()
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.p.WaitSpace(breaking{l.Context(), runtime.Goexit}, 1000)
		}()
		<-done
	},
}

// However a wait is left, its slot is returned at once: the budgets here are so
// long that no deadline passes.
func TestSpinnersGo(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("nobody spins on one processor")
	}
	watchdog(t)
	for name, leave := range waysToLeave {
		t.Run(name, func(t *testing.T) {
			freshSlots(t)
			leave(newLeaver(t))
			require.Zero(t, wait.SlotsTaken())
		})
	}
}

// Whatever a reader has done, it holds no slot when it has left its wait.
func TestSpinnersGoAfterAnything(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("nobody spins on one processor")
	}
	watchdog(t)
	freshSlots(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	held := 0
	for range scaled(500) {
		l := newLeaver(t)
		steps := []func(){
			func() { l.c.Spin() },
			func() {
				for range 10 {
					l.c.Spin()
				}
			},
			func() { l.c.Next() },
			func() { l.c.Message() },
			func() { l.c.Release() },
			func() { l.c.Lease().Release() },
			func() { l.c.Ready() },
			func() { l.c.Arm() },
			func() { l.c.Disarm() },
			func() { l.c.StopSpinning() },
			func() { l.c.SetWait(Wait(rand.IntN(3))) },
			func() { patient(&l.c.spin) },
			func() { l.c.Wait(ended) },
			func() { l.writer.Write(1, make([]byte, rand.IntN(100))) },
			func() { l.p.Write(1, make([]byte, rand.IntN(1000))) },
			func() { l.p.WaitSpace(ended, 1000) },
			func() { l.p.SetWait(Wait(rand.IntN(3))) },
		}
		if rand.IntN(10) == 0 {
			steps = append(steps, l.corrupt)
		}
		for range rand.IntN(40) {
			steps[rand.IntN(len(steps))]()
			held += wait.SlotsTaken()
		}
		[]func(){
			l.c.StopSpinning,
			l.c.Arm,
			func() { l.c.SetWait(WaitPark) },
			func() { l.c.Wait(ended) },
		}[rand.IntN(4)]()
		require.Zero(t, wait.SlotsTaken())
	}
	require.NotZero(t, held, "slots were held meanwhile")
}

// A reader that ends in the middle of its wait, and tells nobody, does not keep its
// slot.
func TestAbandonedSlotIsFree(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("nobody spins on one processor")
	}
	watchdog(t)
	freshSlots(t)
	for range 10 {
		l := newLeaver(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for !l.c.spin.Holds() {
				l.c.spin.SetBudget(wait.ProbeBudget) // the longest that there is
				l.c.spin.Begin()
				for l.c.Spin() && !l.c.spin.Holds() {
				}
			}
		}()
		<-done
		for wait.SlotsTaken() > 0 {
			runtime.Gosched()
		}
		next := newLeaver(t)
		next.poll()
		next.c.StopSpinning()
	}
}
