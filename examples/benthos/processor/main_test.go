//go:build unix

package processor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/examples/benthos/batch"
	_ "github.com/tandemipc/tandem/examples/benthos/processor"
	"github.com/tandemipc/tandem/ring"
	"github.com/tandemipc/tandem/worker"
)

func TestMain(m *testing.M) {
	worker.Main("test", serve)
	os.Exit(m.Run())
}

// serve is the worker of the tests.
func serve() error {
	s := worker.NewServer()
	batch.Handle(s, "act", act)
	batch.HandleBatch(s, "reverse", func(_ context.Context, in []*batch.Message) ([]*batch.Message, error) {
		var out []*batch.Message
		for i := len(in) - 1; i >= 0; i-- {
			c := in[i].Copy()
			c.MetaSet("copy", true)
			c.SetBytes([]byte(string(c.Bytes()) + " again"))
			out = append(out, in[i], c)
		}
		return out, nil
	})
	batch.HandleBatch(s, "fail", func(context.Context, []*batch.Message) ([]*batch.Message, error) {
		return nil, errors.New("the batch is bad")
	})
	for name, from := range map[string]int{"beyond": 2, "negative": -1} {
		worker.Handle(s, batch.NewMethod(name), func(context.Context, []batch.Item) ([]batch.Outcome, error) {
			return []batch.Outcome{{From: 0, Changed: true, Content: []byte("wrong")}, {From: from}}, nil
		})
	}
	return s.Serve(context.Background())
}

// act does with a message what its metadata "do" says, and says which process has done it.
func act(ctx context.Context, m *batch.Message) error {
	what, _ := m.MetaGet("do")
	name, arg, _ := strings.Cut(fmt.Sprint(what), " ")
	switch name {
	case "fail":
		m.SetBytes([]byte("nobody sees this"))
		m.MetaSet("nor", "that")
		return errors.New("it is bad")
	case "mark":
		m.SetError(errors.New("it is marked"))
	case "forgive":
		if m.Err() == nil {
			return errors.New("there was no error")
		}
		m.MetaSet("why", m.Err().Error())
		m.SetError(nil)
	case "drop":
		return fmt.Errorf("not needed: %w", batch.ErrDrop)
	case "panic":
		panic("it panics")
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "hang": // until somebody makes the file; another one says that it does
		_ = os.WriteFile(arg+".begun", nil, 0o600)
		for {
			if _, err := os.Stat(arg); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	m.SetBytes(bytes.ToUpper(m.Bytes()))
	for key, v := range m.MetaAll() {
		m.MetaSet("type of "+key, fmt.Sprintf("%T", v))
	}
	m.MetaDelete("old")
	m.MetaSet("pid", os.Getpid())
	return nil
}

// onBoth runs a test with both drivers.
func onBoth(t *testing.T, f func(t *testing.T, driver string)) {
	for _, driver := range drivers.Names() {
		t.Run(driver, func(t *testing.T) {
			if err := ring.Supported(); err != nil && driver == "shm" {
				t.Skip(err)
			}
			f(t, driver)
		})
	}
}

// stream is a stream that runs, with an input and an output in the test.
type stream struct {
	t     *testing.T
	send  service.MessageBatchHandlerFunc // returns when the batch was acknowledged, or not
	stop  func() error
	log   *records
	mu    sync.Mutex
	got   []service.MessageBatch
	taken func(service.MessageBatch) error // the output, if it is not got
	early func()                           // is called before the stream runs, if it is set
}

// tandem returns the configuration of a processor with the worker of the tests.
func tandem(driver, more string) string {
	return fmt.Sprintf("tandem: {self: test, method: act, driver: %s, %s}", driver, more)
}

// start runs a stream until the test ends.
func start(t *testing.T, threads int, processors ...string) *stream {
	t.Helper()
	return startWith(t, &stream{}, "", threads, processors...)
}

// startWith runs a stream, with resources, until the test ends.
func startWith(t *testing.T, s *stream, resources string, threads int, processors ...string) *stream {
	t.Helper()
	s.t, s.log = t, &records{}
	b := service.NewStreamBuilder()
	b.SetThreads(threads)
	b.SetLogger(slog.New(slog.NewTextHandler(s.log, nil)))
	if resources != "" {
		require.NoError(t, b.AddResourcesYAML(resources))
	}
	for _, p := range processors {
		require.NoError(t, b.AddProcessorYAML(p))
	}
	var err error
	s.send, err = b.AddBatchProducerFunc()
	require.NoError(t, err)
	require.NoError(t, b.AddBatchConsumerFunc(func(_ context.Context, got service.MessageBatch) error {
		if s.taken != nil {
			return s.taken(got)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, got)
		return nil
	}))
	built, err := b.Build()
	require.NoError(t, err)
	if s.early != nil {
		s.early()
	}
	ran := make(chan error, 1)
	go func() { ran <- built.Run(context.WithoutCancel(t.Context())) }()
	s.stop = sync.OnceValue(func() error { return errors.Join(built.StopWithin(time.Minute), <-ran) })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.log)
		}
	})
	return s
}

// message makes a message. pairs are metadata.
func message(content string, pairs ...any) *service.Message {
	m := service.NewMessage([]byte(content))
	for i := 0; i < len(pairs); i += 2 {
		m.MetaSetMut(pairs[i].(string), pairs[i+1])
	}
	return m
}

// through sends a batch through the stream, and returns what comes out of it.
func (s *stream) through(in ...*service.Message) service.MessageBatch {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	require.NoError(s.t, s.send(ctx, in))
	s.mu.Lock()
	defer s.mu.Unlock()
	var all service.MessageBatch
	for _, b := range s.got {
		all = append(all, b...)
	}
	s.got = nil
	return all
}

func content(t *testing.T, m *service.Message) string {
	t.Helper()
	b, err := m.AsBytes()
	require.NoError(t, err)
	return string(b)
}

// pid returns which process has handled a message.
func pid(t *testing.T, m *service.Message) int {
	t.Helper()
	v, ok := m.MetaGetMut("pid")
	require.True(t, ok, "no worker has handled it: %v", m.GetError())
	return int(v.(int64))
}

// records is a log.
type records struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}
