package pipeline

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// stage is a stage through a method.
type stage[Req, Res any] struct {
	core
	judge[Req]
	next    taker[Res]
	info    ipc.MethodInfo
	batches *ipc.Method[[]byte, []byte] // carries many records
	key     func(Req) string
	in, out ipc.Codec
	scratch []byte
	plain   atomic.Bool // the workers have no handler for batches
	streams bool        // the stage is a stream
}

func newStage[Req, Res any](r *run, info ipc.MethodInfo, codec ipc.Codec, c ipc.Caller, o options, next taker[Res]) *stage[Req, Res] {
	s := &stage[Req, Res]{info: info, batches: batchMethod(info.Name), next: next, judge: newJudge[Req](&o), in: codec, out: codec}
	s.key = typed[func(Req) string](&o, "By", o.key)
	if r == nil {
		return s
	}
	s.init(r, o, c)
	s.execute = s.process
	return s
}

// value implements [taker].
func (s *stage[Req, Res]) value(id ID, v Req) error {
	lane := s.lanes[0]
	if s.key != nil {
		lane = s.laneOf(s.key(v))
	}
	if raw, ok := any(v).([]byte); ok && s.in == ipc.Raw {
		return s.put(lane, id, raw)
	}
	body, err := ipc.Marshal(s.in, s.scratch[:0], v)
	if err != nil {
		return s.unfit(id, v, ipc.Errorf(ipc.CodeInvalidArgument, "encode the request of %q: %w", s.info.Name, err))
	}
	s.scratch = body
	return s.put(lane, id, body)
}

// encoded implements [taker].
func (s *stage[Req, Res]) encoded(id ID, codec ipc.Codec, b []byte) error {
	if s.key == nil && codec.Name() == s.in.Name() {
		return s.put(s.lanes[0], id, b)
	}
	v, err := unmarshal[Req](codec, b)
	if err != nil {
		return s.run.fail(&StageError{s.judge.name, id, fmt.Errorf("decode: %w", err)})
	}
	return s.value(id, v)
}

// frames implements [taker].
func (s *stage[Req, Res]) frames(ids []ID, codec ipc.Codec, frames []byte) error {
	if s.key != nil || codec.Name() != s.in.Name() {
		return eachFrame(s, ids, codec, frames)
	}
	return s.putFrames(s.lanes[0], ids, frames)
}

func (s *stage[Req, Res]) pause() error { return nil }

// unfit deals with a record that cannot be sent.
func (s *stage[Req, Res]) unfit(id ID, v Req, err error) error {
	failed := Failure[Req]{s.judge.name, id, v, err, 1}
	switch action := s.decide(s.run.ctx, failed); action.kind {
	case actionSkip:
		s.count(&s.counters.skipped)
	case actionDead:
		if err := s.bury(s.run.ctx, failed); err != nil {
			return s.run.fail(err)
		}
		s.count(&s.counters.dead)
	default: // it would fail again
		return s.run.fail(&StageError{s.judge.name, id, err})
	}
	s.run.track.took(id)
	return nil
}

// emit passes on what has come of batches.
func (s *stage[Req, Res]) emit() {
	defer s.next.end()
	for {
		b := s.take()
		if b == nil {
			return
		}
		if s.pass(b) != nil || s.next.pause() != nil {
			return
		}
		s.release(b)
	}
}

// pass passes on what has come of a batch.
func (s *stage[Req, Res]) pass(b *batch) error {
	if len(b.parts) == 0 {
		return s.next.frames(b.ids, s.out, b.res)
	}
	for i, id := range b.ids {
		var err error
		switch part := &b.parts[i]; {
		case part.dropped:
		case s.streams:
			err = s.passItems(id, part.body)
		default:
			err = s.next.encoded(id, s.out, part.body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// process gets a batch through.
func (s *stage[Req, Res]) process(b *batch) {
	began := time.Now()
	var res []byte
	var err error
	if s.plain.Load() {
		err = errPlain
	} else {
		mem := b.mem
		b.mem = nil // the call takes it over, also if it fails
		if res, err = s.call(b.lane, b.req, mem); err == nil && allWell(res, len(b.ids)) {
			b.res = res
			s.finish(b, time.Since(began))
			return
		}
	}
	r := rescue[Req, Res]{stage: s, batch: b}
	if r.run(res, err) {
		s.finish(b, time.Since(began)-r.idle)
	}
}

// errPlain says that the workers have no handler for batches.
var errPlain = errors.New("tandem: pipeline: no handler for batches")

// call sends a batch to a worker.
func (s *stage[Req, Res]) call(l *lane, req, mem []byte) ([]byte, error) {
	var opts []ipc.CallOption
	if s.hang != ipc.DefaultTimeout {
		opts = []ipc.CallOption{ipc.WithTimeout(s.hang)}
	}
	err := s.batches.CallInto(s.core.run.ctx, l.caller, req, &mem, opts...)
	var e *ipc.Error
	if errors.As(err, &e) && e.Remote() && e.Code == ipc.CodeUnimplemented { // what handlers say is in frames
		err = errPlain
	}
	return mem, err
}

// callOne sends a single record to a worker. failed is what its handler says, and err why there is
// no answer.
func (s *stage[Req, Res]) callOne(l *lane, body []byte) (res []byte, failed, err error) {
	if s.streams {
		res, err = s.callStream(l, body)
		return res, nil, err
	}
	if s.plain.Load() {
		res, err = l.caller.Invoke(s.core.run.ctx, &ipc.Invocation{Method: s.info, Timeout: s.hang}, body, nil)
		return res, nil, err
	}
	answer, err := s.call(l, appendFrame(nil, body), nil)
	if err != nil {
		return nil, nil, err
	}
	all, err := splitFrames(answer, 1)
	switch {
	case err != nil:
		return nil, err, nil
	case all[0].failed:
		return nil, ipc.ParseError(all[0].body), nil
	}
	return all[0].body, nil, nil
}

// unmarshal decodes a record. Bytes of codec raw are where they are.
func unmarshal[T any](codec ipc.Codec, b []byte) (v T, err error) {
	if raw, ok := any(&v).(*[]byte); ok && codec == ipc.Raw {
		*raw = b
		return v, nil
	}
	return ipc.Unmarshal[T](codec, b)
}
