package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/tandemipc/tandem/ipc"
)

// Option is an option of a stage.
type Option func(*options)

type options struct {
	name     string
	ordered  bool
	key      any // func(Req) string
	batch    Batches
	window   int64
	inFlight int
	hang     time.Duration
	deaths   int
	onError  any // func(context.Context, Failure[Req]) Action
	dead     any // func(context.Context, Failure[Req]) error
}

// Batches bounds the batches of a stage. Where a field is 0 its default counts.
//
// A batch is sent at once while a worker of the stage has nothing to do, even if it has a single
// record. While all are busy records gather, until there are as many as the stage handles in
// Work, or as Records or Bytes allow, or until the first of them has waited for Wait.
type Batches struct {
	// Records is the most records of a batch; the default is 1024.
	Records int
	// Bytes is the most bytes of a batch, encoded, unless a single record has more; the default
	// is 128 KiB.
	Bytes int
	// Work is how long a batch should be at its worker, beside the others that are there; the default is 8 ms. The stage learns how long a
	// record takes, so batches of slow records are small.
	Work time.Duration
	// Wait is the longest that a record waits for others; the default is 1 ms.
	Wait time.Duration
}

func newOptions(name string, opts []Option) options {
	o := options{name: name, window: 4 << 20, hang: ipc.DefaultTimeout, deaths: 3}
	for _, opt := range opts {
		opt(&o)
	}
	if o.ordered && o.key != nil {
		panic(fmt.Sprintf("tandem: pipeline: stage %q is to be Ordered, and ordered By a key: choose one", o.name))
	}
	setDefault(&o.batch.Records, 1024)
	setDefault(&o.batch.Bytes, 128<<10)
	setDefault(&o.batch.Work, 8*time.Millisecond)
	setDefault(&o.batch.Wait, time.Millisecond)
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Name sets the name of a stage, for statistics and errors; the default is the name of its method.
func Name(name string) Option { return func(o *options) { o.name = name } }

// Ordered makes the records of a stage come out in the order in which they went in. A slow worker
// does not stop the others until the window is full ([Window]). Without Ordered and [By] records
// come out as they come.
func Ordered() Option { return func(o *options) { o.ordered = true } }

// By makes records with the same key go to the same worker, one after the other, and come out in
// their order. The order of records with different keys is as it comes. key has to be quick, and
// may not keep the record.
//
// Keys share 64 lanes. A lane has one batch at a time at its worker, which is that of pool.For;
// when workers come or go, some lanes move to other workers, and no record overtakes another
// even then. With a caller that is no pool there is only the order. The stage panics if T is not
// the type of its records.
func By[T any](key func(T) string) Option { return func(o *options) { o.key = key } }

// BatchBy bounds the batches of a stage. It panics if a field is negative.
func BatchBy(b Batches) Option {
	if b.Records < 0 || b.Bytes < 0 || b.Work < 0 || b.Wait < 0 {
		panic(fmt.Sprintf("tandem: pipeline: negative bounds of batches: %+v", b))
	}
	return func(o *options) { o.batch = b }
}

// Window bounds the bytes that a stage holds: records that wait for a worker or are at one, which
// are the ones that are sent again when it dies, and results that the next stage or the sink has
// not taken. A record counts for its size, encoded, and 64 bytes. When the window is full the
// stage takes no more, and so all before it stand still. The default is 4 MiB. A single record may
// be larger, and answers that are larger than those before them let on may exceed the window for
// once, by what is in flight. Window panics if bytes is not positive.
func Window(bytes int64) Option {
	if bytes <= 0 {
		panic(fmt.Sprintf("tandem: pipeline: window of %d bytes", bytes))
	}
	return func(o *options) { o.window = bytes }
}

// InFlight sets how many batches of a stage are at its workers at a time. The default is twice
// GOMAXPROCS for each worker of the pool that there is at the time, which fits the default
// concurrency of pools. InFlight panics if n is less than 1.
func InFlight(n int) Option {
	if n < 1 {
		panic(fmt.Sprintf("tandem: pipeline: %d batches in flight", n))
	}
	return func(o *options) { o.inFlight = n }
}

// Hang sets how long a batch may take, the time in the queue of a pool included. What takes longer
// is sent again as if its worker had died, to another one where there is one. The default is the
// timeout that the caller has for calls (worker.WithCallTimeout, 5 minutes). Hang panics if d
// is not positive.
//
// Hang finds handlers that do not return. Give workers a heartbeat, too (worker.WithHeartbeat):
// it finds processes that are stopped, much sooner, and replaces them.
func Hang(d time.Duration) Option {
	if d <= 0 {
		panic(fmt.Sprintf("tandem: pipeline: Hang(%v)", d))
	}
	return func(o *options) { o.hang = d }
}

// Deaths sets after how many workers that ended, or hung ([Hang]), while they had just this record of
// all that are suspect, it goes to the dead letters instead of to another one; the default is 3. It
// panics if n is less than 1.
//
// When a worker dies the stage does not know which record it was. So it sends the records of the
// batches that the worker had one by one, one at a time in the whole stage, beside the batches
// that are not suspect. Thus only the record that kills is blamed, unless somebody else kills its
// worker just then.
func Deaths(n int) Option {
	if n < 1 {
		panic(fmt.Sprintf("tandem: pipeline: Deaths(%d)", n))
	}
	return func(o *options) { o.deaths = n }
}

// Failure is a record that failed.
type Failure[T any] struct {
	// Stage is the name of the stage.
	Stage string
	// ID names the record.
	ID ID
	// Record is what went into the stage. Bytes of codec raw are valid until the function returns
	// that gets the Failure.
	Record T
	// Err is why it failed: the handler's *ipc.Error, or the *worker.ExitError or *ipc.TimeoutError
	// of the last worker that the record has ended.
	Err error
	// Attempt is how often it was tried, from 1.
	Attempt int
}

// Action is what becomes of a record that failed.
type Action struct {
	kind  actionKind
	after time.Duration
}

type actionKind uint8

const (
	actionFail actionKind = iota
	actionSkip
	actionDead
	actionRetry
)

// What becomes of a record that failed.
var (
	// Fail ends the pipeline with an error.
	Fail = Action{kind: actionFail}
	// Skip leaves the record out.
	Skip = Action{kind: actionSkip}
	// Bury gives the record to the function of DeadLetter. Without one it is Fail.
	Bury = Action{kind: actionDead}
)

// Retry tries the record once more, after a pause.
func Retry(after time.Duration) Action { return Action{actionRetry, max(after, 0)} }

// OnError sets what decides about records whose handler has failed, or that cannot be encoded. It is not asked about
// records that have ended their workers: see [Deaths]. Without OnError the pipeline fails with
// the first. f is called concurrently. The stage panics if T is not the type of the
// records that go in.
func OnError[T any](f func(ctx context.Context, failed Failure[T]) Action) Option {
	return func(o *options) { o.onError = f }
}

// Attempts is an OnError for most: a record is tried so often in all, with a pause of first
// before the second time and of twice as long before each further one; then what becomes
// of it is then.
func Attempts[T any](n int, first time.Duration, then Action) Option {
	return OnError(func(_ context.Context, f Failure[T]) Action {
		if f.Attempt >= n {
			return then
		}
		return Retry(first << min(f.Attempt-1, 20))
	})
}

// DeadLetter sets what takes records that are given up: those that [OnError] says to [Bury], and
// those that have ended too many workers ([Deaths]). When f has returned nil the record is done
// with; an error ends the pipeline. f is called concurrently, and gets a record at least once, as a
// sink does. The stage panics if T is not the type of the records that go in.
func DeadLetter[T any](f func(ctx context.Context, failed Failure[T]) error) Option {
	return func(o *options) { o.dead = f }
}

// A StageError says which record a pipeline has failed with.
type StageError struct {
	// Stage is the name of the stage, and ID that of the record.
	Stage string
	ID    ID
	// Err is why.
	Err error
}

func (e *StageError) Error() string {
	return fmt.Sprintf("tandem: pipeline: stage %q, record %v: %v", e.Stage, e.ID, e.Err)
}

// Unwrap returns Err.
func (e *StageError) Unwrap() error { return e.Err }

// judge decides about records of a stage that failed.
type judge[T any] struct {
	name    string
	onError func(context.Context, Failure[T]) Action
	dead    func(context.Context, Failure[T]) error
}

func newJudge[T any](o *options) judge[T] {
	j := judge[T]{name: o.name}
	j.onError = typed[func(context.Context, Failure[T]) Action](o, "OnError", o.onError)
	j.dead = typed[func(context.Context, Failure[T]) error](o, "DeadLetter", o.dead)
	return j
}

// typed returns an option that is a function of the stage's records.
func typed[F any](o *options, option string, f any) F {
	t, ok := f.(F)
	if f != nil && !ok {
		panic(fmt.Sprintf("tandem: pipeline: stage %q: %s has a %T, and its records need a %T", o.name, option, f, t))
	}
	return t
}

// decide says what becomes of a record that failed.
func (j *judge[T]) decide(ctx context.Context, f Failure[T]) Action {
	if j.onError == nil {
		return Fail
	}
	return j.onError(ctx, f)
}

// bury gives a record to the dead letters. Without them it returns why it has failed.
func (j *judge[T]) bury(ctx context.Context, f Failure[T]) error {
	if j.dead == nil {
		return &StageError{j.name, f.ID, f.Err}
	}
	if err := j.dead(ctx, f); err != nil {
		return &StageError{j.name, f.ID, fmt.Errorf("dead letter: %w", err)}
	}
	return nil
}
