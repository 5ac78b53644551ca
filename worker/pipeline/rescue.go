package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// rescue gets a batch through of which not all went well.
type rescue[Req, Res any] struct {
	stage   *stage[Req, Res]
	batch   *batch
	records []frame
	tries   []int         // of each record
	deaths  []int         // of workers that had just this record
	suspect []bool        // may have ended its worker
	later   []int         // records that are to be tried again after a pause
	pause   time.Duration // how long
	lost    int           // calls in a row that found no worker
	pid     int           // of the last worker that has ended
	idle    time.Duration // that no worker had any of it
}

// outcome is what an error of a call means.
type outcome uint8

const (
	over     outcome = iota // the run is
	failed                  // the record
	again                   // it was not run, or not to its end, and nothing is to blame
	gone                    // there is no link, perhaps for good
	killed                  // its worker has ended
	hung                    // or does not answer
	lacking                 // there is no handler for batches
	hopeless                // there will be no worker
)

// draining is in the details of the error of a worker that takes no more requests.
const draining = "tandem.draining"

// judgeCall says what an error of a call means.
func (r *rescue[Req, Res]) judgeCall(err error) outcome {
	s := r.stage
	var e *ipc.Error
	var exit *ipc.ExitError
	var size *ipc.SizeError
	switch {
	case s.core.run.ctx.Err() != nil:
		return over
	case err == errPlain:
		return lacking
	case errors.As(err, &e) && e.Remote() && e.Details[draining] != "":
		return again
	case errors.As(err, &e) && !e.Remote() && e.Code == ipc.CodeResourceExhausted:
		return again // the queue of the pool is full
	case errors.As(err, &e), errors.As(err, &size):
		return failed
	case errors.Is(err, ipc.ErrClosed):
		return hopeless
	case errors.As(err, &exit) && exit.PID != r.pid:
		r.pid = exit.PID
		return killed
	case s.givenUp(), exit != nil && s.pool == nil: // that is not started again
		return hopeless
	case exit != nil:
		return again
	case errors.Is(err, context.DeadlineExceeded): // all *ipc.TimeoutErrors are
		if s.pool != nil && s.pool.Stats().Size == 0 {
			return again // it was in the queue all the time
		}
		return hung
	case errors.Is(err, ipc.ErrPeerGone), errors.Is(err, ipc.ErrDisconnected), errors.Is(err, ipc.ErrProtocol):
		return gone
	}
	return hopeless
}

// givenUp reports whether the pool has given all its workers up.
func (c *core) givenUp() bool {
	if c.pool == nil {
		return false
	}
	s := c.pool.Stats()
	return s.GivenUp > 0 && s.Size == 0 && s.Starting == 0
}

// run gets the batch through, of which res or err has come. It returns false if the run is over.
func (r *rescue[Req, Res]) run(res []byte, err error) bool {
	s, b := r.stage, r.batch
	n := len(b.ids)
	var bad error
	if r.records, bad = splitFrames(b.req, n); bad != nil {
		panic(bad) // it is ours
	}
	r.tries, r.deaths, r.suspect = make([]int, n), make([]int, n), make([]bool, n)
	b.parts = make([]part, n)
	for err != nil {
		switch outcome := r.judgeCall(err); outcome {
		case over:
			return false
		case hopeless:
			_ = s.core.run.fail(&StageError{s.judge.name, b.ids[0], err})
			return false
		case killed:
			s.count(&s.counters.deaths)
			r.suspectAll()
		case hung:
			s.count(&s.counters.hangs)
			r.suspectAll()
		case lacking:
			s.plain.Store(true)
		case again, gone:
			if !r.breathe(outcome, err) {
				return false
			}
			if res, err = s.call(b.lane, b.req, nil); err == nil {
				s.counters.add(&s.core, &s.counters.retries, uint64(n))
			}
			continue
		}
		return r.oneByOne(r.all())
	}
	answers, err := splitFrames(res, n)
	if err != nil {
		return r.oneByOne(r.all())
	}
	for i, a := range answers {
		if r.tries[i]++; !a.failed {
			b.parts[i].body = a.body
		} else if !r.decide(i, ipc.ParseError(a.body)) {
			return false
		}
	}
	return r.oneByOne(nil)
}

func (r *rescue[Req, Res]) all() []int {
	list := make([]int, len(r.records))
	for i := range list {
		list[i] = i
	}
	return list
}

func (r *rescue[Req, Res]) suspectAll() {
	for i := range r.suspect {
		r.suspect[i] = true
	}
}

// oneByOne gets records through, and those of r.later. It returns false if the run is over.
func (r *rescue[Req, Res]) oneByOne(records []int) bool {
	for {
		for _, i := range records {
			if !r.one(i) {
				return false
			}
		}
		if len(r.later) == 0 {
			return true
		}
		records, r.later = r.later, nil
		r.idle += r.pause
		if sleep(r.stage.core.run.ctx, r.pause) != nil {
			return false
		}
		r.pause = 0
	}
}

// one gets a record through, or into r.later.
func (r *rescue[Req, Res]) one(i int) bool {
	s, b := r.stage, r.batch
	for {
		if r.tries[i] > 0 || r.suspect[i] {
			s.count(&s.counters.retries)
		}
		res, fault, err := r.alone(i)
		if err == nil {
			r.tries[i]++
			r.lost = 0
			r.suspect[i] = false
			if fault == nil {
				b.parts[i].body = res
				return true
			}
			return r.decide(i, fault)
		}
		switch outcome := r.judgeCall(err); outcome {
		case over:
			return false
		case hopeless:
			_ = s.core.run.fail(&StageError{s.judge.name, b.ids[i], err})
			return false
		case failed:
			r.tries[i]++
			return r.decide(i, err)
		case killed:
			s.count(&s.counters.deaths)
			if r.blame(i) {
				return r.bury(i, err)
			}
		case hung:
			s.count(&s.counters.hangs)
			if r.blame(i) {
				return r.bury(i, err)
			}
		case lacking:
			s.plain.Store(true)
		case again, gone:
			if !r.breathe(outcome, err) {
				return false
			}
		}
	}
}

// blame notes that a worker has ended that had a record, and reports whether it has ended too
// many.
func (r *rescue[Req, Res]) blame(i int) bool {
	r.tries[i]++
	if !r.suspect[i] { // others may have been there, too
		r.suspect[i] = true
		return false
	}
	r.deaths[i]++
	return r.deaths[i] >= r.stage.options.deaths
}

// alone sends a record by itself; a suspect one as the only one of the stage.
func (r *rescue[Req, Res]) alone(i int) (res []byte, fault, err error) {
	s := r.stage
	if r.suspect[i] {
		began := time.Now()
		select {
		case s.suspects <- struct{}{}:
			defer func() { <-s.suspects }()
		case <-s.core.run.ctx.Done():
			return nil, nil, s.core.run.ctx.Err()
		}
		r.idle += time.Since(began)
	}
	return s.callOne(r.batch.lane, r.records[i].body)
}

// patience is how many calls in a row may find no link before the stage fails.
const patience = 60

// breathe waits a little, for there is no worker to blame err on. It returns false if that has been
// so for too long, or the run is over.
func (r *rescue[Req, Res]) breathe(o outcome, err error) bool {
	s := r.stage
	if o == gone && r.lost > patience {
		_ = s.core.run.fail(fmt.Errorf("tandem: pipeline: stage %q: no link to a worker: %w", s.judge.name, err))
		return false
	}
	d := min(time.Millisecond<<min(r.lost, 10), 250*time.Millisecond)
	r.lost++
	r.idle += d
	return sleep(s.core.run.ctx, d) == nil
}

// decide asks what becomes of a record whose handler has failed. It returns false if the run is over.
func (r *rescue[Req, Res]) decide(i int, err error) bool {
	s := r.stage
	f, ok := r.failure(i, err)
	if !ok {
		return false
	}
	action := s.judge.decide(s.core.run.ctx, f)
	switch action.kind {
	case actionRetry:
		r.later = append(r.later, i)
		r.pause = max(r.pause, action.after)
		return true
	case actionSkip:
		s.count(&s.counters.skipped)
		r.drop(i)
		return true
	case actionDead:
		return r.bury(i, err)
	}
	_ = s.core.run.fail(&StageError{s.judge.name, f.ID, err})
	return false
}

// bury makes a record a dead letter. It returns false if the run is over.
func (r *rescue[Req, Res]) bury(i int, err error) bool {
	s := r.stage
	f, ok := r.failure(i, err)
	if !ok {
		return false
	}
	if err := s.bury(s.core.run.ctx, f); err != nil {
		_ = s.core.run.fail(err)
		return false
	}
	s.count(&s.counters.dead)
	r.drop(i)
	return true
}

// drop notes that a record is done with.
func (r *rescue[Req, Res]) drop(i int) {
	r.batch.parts[i].dropped = true
	r.stage.core.run.track.took(r.batch.ids[i])
}

// failure is record i, which has failed with err. ok is false if the run is over.
func (r *rescue[Req, Res]) failure(i int, err error) (f Failure[Req], ok bool) {
	s := r.stage
	v, bad := unmarshal[Req](s.in, r.records[i].body)
	if bad != nil {
		_ = s.core.run.fail(&StageError{s.judge.name, r.batch.ids[i], fmt.Errorf("decode: %w", bad)})
		return f, false
	}
	return Failure[Req]{s.judge.name, r.batch.ids[i], v, err, r.tries[i]}, true
}
