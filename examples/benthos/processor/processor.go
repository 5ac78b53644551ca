// Package processor is the processor "tandem" of Benthos streams, which runs batches through a pool of
// worker processes. Importing it makes the processor known. [Spec] says what is configured, and package batch what workers
// have to do.
package processor

import (
	"context"
	"errors"
	"fmt"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/tandemipc/tandem/examples/benthos/batch"
	"github.com/tandemipc/tandem/ipc"
)

func init() {
	service.MustRegisterBatchProcessor("tandem", Spec(), New)
}

// processor is safe for concurrent use, as the threads of a pipeline share it.
type processor struct {
	workers    workers
	method     *ipc.Method[[]batch.Item, []batch.Outcome]
	idempotent bool
	attempts   int
	metadata   *service.MetadataExcludeFilter
	log        *service.Logger
	retries    *service.MetricCounter
}

// New starts the workers of a processor, and returns it. The engine closes it.
func New(from *service.ParsedConfig, res *service.Resources) (service.BatchProcessor, error) {
	c, err := parse(from)
	if err != nil {
		return nil, err
	}
	w, err := newWorkers(&c, res)
	if err != nil {
		return nil, err
	}
	return &processor{
		workers: w, method: batch.NewMethod(c.method), idempotent: c.idempotent, attempts: c.attempts, metadata: c.metadata,
		log: res.Logger(), retries: res.Metrics().NewCounter("tandem_retries"),
	}, nil
}

// ProcessBatch implements [service.BatchProcessor]. An error concerns all messages of the batch.
func (p *processor) ProcessBatch(ctx context.Context, in service.MessageBatch) ([]service.MessageBatch, error) {
	items := make([]batch.Item, len(in))
	for i, m := range in {
		if err := p.item(m, &items[i]); err != nil {
			return nil, fmt.Errorf("tandem: message %d: %w", i, err)
		}
	}
	outcomes, err := p.call(ctx, items)
	if err != nil {
		return nil, err
	}
	out, err := apply(in, outcomes)
	if err != nil || len(out) == 0 {
		return nil, err
	}
	return []service.MessageBatch{out}, nil
}

// item makes of a message what a worker gets.
func (p *processor) item(m *service.Message, item *batch.Item) (err error) {
	if item.Content, err = m.AsBytes(); err != nil {
		return err
	}
	if failed := m.GetError(); failed != nil {
		item.Err = ipc.AppendError(nil, failed)
	}
	return p.metadata.WalkMut(m, func(key string, value any) error {
		if item.Meta == nil {
			item.Meta = make(map[string]any)
		}
		item.Meta[key] = batch.Portable(value)
		return nil
	})
}

// call sends a batch to a worker, and to another one while that may help.
func (p *processor) call(ctx context.Context, items []batch.Item) ([]batch.Outcome, error) {
	for attempt := 1; ; attempt++ {
		outcomes, err := p.method.Call(ctx, p.workers, items)
		if err == nil || attempt == p.attempts || ctx.Err() != nil || !p.idempotent || !unanswered(err) {
			return outcomes, err
		}
		p.retries.Incr(1)
		p.log.Warnf("A batch of %d messages is sent again (%d of %d attempts): %v", len(items), attempt+1, p.attempts, err)
	}
}

// unanswered reports whether a call has failed because no worker has answered it, and another one may.
func unanswered(err error) bool {
	var e *ipc.Error
	switch {
	case errors.As(err, &e) || errors.Is(err, ipc.ErrClosed):
		return false
	case errors.Is(err, context.DeadlineExceeded): // all *ipc.TimeoutErrors are
		return true
	}
	return errors.Is(err, ipc.ErrPeerGone) || errors.Is(err, ipc.ErrDisconnected) || errors.Is(err, ipc.ErrProtocol)
}

// apply makes the batch that goes on. It changes nothing if what the worker says makes no sense.
func apply(in service.MessageBatch, outcomes []batch.Outcome) (service.MessageBatch, error) {
	count := make([]int, len(in)) // of outcomes of each message
	for i := range outcomes {
		from := outcomes[i].From
		if from < 0 || from >= len(in) {
			return nil, fmt.Errorf("tandem: the worker returns message %d of a batch of %d", from, len(in))
		}
		count[from]++
	}
	out := make(service.MessageBatch, len(outcomes))
	for i := range outcomes {
		o := &outcomes[i]
		m := in[o.From]
		if count[o.From] > 1 {
			m = m.Copy() // all of them: a copy sees what is set in its original later
		}
		change(m, o)
		out[i] = m
	}
	return out, nil
}

// change makes a message what the worker has made of it.
func change(m *service.Message, o *batch.Outcome) {
	if o.Changed {
		m.SetBytes(o.Content)
	}
	for key, v := range o.Set {
		m.MetaSetMut(key, batch.Portable(v))
	}
	for _, key := range o.Deleted {
		m.MetaDelete(key)
	}
	switch {
	case !o.ErrChanged:
	case o.Err == nil:
		m.SetError(nil)
	default:
		m.SetError(ipc.ParseError(o.Err))
	}
}

// Close ends the workers when they have answered what they have, within the grace of their pool.
func (p *processor) Close(context.Context) error {
	if err := p.workers.Close(); err != nil {
		p.log.Warnf("A worker has not ended well: %v", err)
	}
	return nil // an error would keep the engine from closing other processors
}
