package pipeline

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// ThroughStream sends the records through a stage that is a stream: for each record, the request, it opens
// the stream m at a worker of c, and what comes back are its results, each with an [ID] of its own, as of [Flatten].
//
// A stream whose worker ends before it has come to its end is opened again elsewhere, from its beginning, and what had
// come is dropped. So the results of a record are held until its stream has ended, and count for the
// window then: a stream with more than that exceeds it. The options are those of [Through]; batches have one
// record, and the default of [Hang] is 5 minutes. Streams to the worker, and both ways, are no stages, as they do not say which
// answer is of which record: docs/pipelines.md has more.
func ThroughStream[Req, Item any](in *Flow[Req], m *ipc.ServerStream[Req, Item], c ipc.StreamCaller, opts ...Option) *Flow[Item] {
	if in == nil || m == nil || c == nil {
		panic("tandem: pipeline: ThroughStream with a nil flow, stream or caller")
	}
	name := m.Info().Name
	mustNotCarry[Req](name)
	mustNotCarry[Item](name)
	o := newOptions(name, opts)
	o.batch.Records = 1
	if o.hang == ipc.DefaultTimeout {
		o.hang = 5 * time.Minute
	}
	make := func(r *run, next taker[Item]) *stage[Req, Item] {
		s := newStage[Req, Item](r, m.Info(), m.Codec(c.Codec()), c, o, next)
		s.streams = true
		s.plain.Store(true)
		return s
	}
	make(nil, nil) // panics now, not later
	return &Flow[Item]{source: in.source, latest: new(atomic.Pointer[run]), build: func(r *run, next taker[Item]) {
		s := make(r, next)
		r.add(&s.core)
		r.work(s.emit)
		in.build(r, s)
	}}
}

// callStream opens a stream for a record, and returns the frames of its items.
func (s *stage[Req, Res]) callStream(l *lane, body []byte) (items []byte, err error) {
	c, ok := l.caller.(ipc.StreamCaller)
	if !ok {
		return nil, fmt.Errorf("tandem: pipeline: %T opens no streams: %w", l.caller, errors.ErrUnsupported)
	}
	ctx := s.core.run.ctx
	if body == nil {
		body = []byte{}
	}
	st, err := c.OpenStream(ctx, &ipc.Invocation{Method: s.info, Timeout: s.hang}, &ipc.StreamOpening{First: body, Only: true})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	for {
		item, err := st.Receive(ctx)
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return nil, err
		}
		items = appendFrame(items, item)
	}
}

// passItems passes on the items of a record.
func (s *stage[Req, Res]) passItems(id ID, items []byte) error {
	n := 0
	for rest := items; len(rest) > 0; n++ {
		_, rest, _ = nextFrame(rest)
	}
	if n != 1 {
		s.core.run.track.split(id.Pos, n)
	}
	path := id.below()
	for i := range n {
		var f frame
		f, items, _ = nextFrame(items)
		if err := s.next.encoded(ID{id.Pos, uint64(i) + 1, path}, s.out, f.body); err != nil {
			return err
		}
	}
	return nil
}
