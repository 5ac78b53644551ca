//go:build unix

package worker_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// lifeMessage says what the worker is to do, and has buffers.
type lifeMessage struct {
	How  string
	Size int
	B    ipc.Buffer
	More []ipc.Buffer
}

// lifeStats are what a process has of buffers.
type lifeStats struct {
	Arena  ipc.ArenaStats
	Mapped int // memory of others and its own
	PID    int
}

// unencodable is part of a response that cannot be encoded.
type unencodable struct {
	B    ipc.Buffer
	Fail failText
}

type failText string

func (f failText) MarshalText() ([]byte, error) {
	if f == "fail" {
		return nil, errors.New("it has no text")
	}
	return []byte(f), nil
}

func (f *failText) UnmarshalText(b []byte) error { *f = failText(b); return nil }

var (
	lifeDo     = ipc.NewMethod[lifeMessage, lifeMessage]("life.do")
	lifeSafe   = ipc.NewMethod[lifeMessage, lifeMessage]("life.safe", ipc.WithIdempotent())
	lifeInline = ipc.NewMethod[lifeMessage, lifeMessage]("life.inline")
	lifeAlone  = ipc.NewMethod[lifeMessage, lifeMessage]("life.alone") // one at a time
	lifeRaw    = ipc.NewMethod[ipc.Buffer, ipc.Buffer]("life.raw", ipc.WithCodec(ipc.Raw))
	lifeTold   = ipc.NewMethod[lifeMessage, struct{}]("life.told")
	lifeBad    = ipc.NewMethod[lifeMessage, unencodable]("life.bad")
	lifeCount  = ipc.NewMethod[string, lifeStats]("life.count") // "trim" gives memory back first
	lifeGate   = ipc.NewMethod[string, int]("life.gate")        // opens a gate
	lifeNo     = ipc.NewMethod[lifeMessage, lifeMessage]("life.no_handler")
	// The same methods, of a side that expects something else.
	lifeDoWrong = ipc.NewMethod[struct {
		How int
		B   ipc.Buffer
	}, lifeMessage]("life.do")
	lifeDoExpects = ipc.NewMethod[lifeMessage, struct {
		How int
		B   ipc.Buffer
	}]("life.do")
	lifeDoBlind = ipc.NewMethod[lifeMessage, struct{ How string }]("life.do")

	lifeDown = ipc.NewServerStream[lifeMessage, lifeMessage]("life.down") // Size items
	lifeUp   = ipc.NewClientStream[lifeMessage, lifeMessage]("life.up")   // the last item
	lifeBoth = ipc.NewBidiStream[lifeMessage, lifeMessage]("life.both")

	lifeDownWrong = ipc.NewServerStream[struct {
		How int
		B   ipc.Buffer
	}, lifeMessage]("life.down")
	lifeDownExpects = ipc.NewServerStream[lifeMessage, struct{ How int }]("life.down")
)

func init() { entries["life"] = func() error { return beLifeWorker() } }

// gates are opened by the host.
type gates struct {
	mu  sync.Mutex
	all map[string]chan struct{}
}

func (g *gates) of(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = make(map[string]chan struct{})
	}
	if g.all[name] == nil {
		g.all[name] = make(chan struct{})
	}
	return g.all[name]
}

func (g *gates) open(name string) {
	c := g.of(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

func mappedMemory() int {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Count(string(maps), " /memfd:tandem-arena") + strings.Count(string(maps), " /memfd:tandem-frozen")
}

// beLifeWorker serves without a garbage collector: what nobody releases stays.
func beLifeWorker() error {
	debug.SetGCPercent(-1)
	arena := ipc.NewArena(ipc.ArenaOptions{})
	s := worker.NewServer(worker.WithServerArena(arena), worker.WithServerInterceptors(ipc.Interceptor{
		Handle: func(ctx context.Context, call *ipc.Call, next func(context.Context) error) error {
			switch call.Metadata.Get("life") {
			case "refuse":
				return errors.New("refused by an interceptor")
			case "fail":
				_ = next(ctx)
				return errors.New("failed by an interceptor")
			case "panic":
				_ = next(ctx)
				panic("in an interceptor")
			}
			return next(ctx)
		},
	}))
	var all gates
	var mu sync.Mutex
	kept := make(map[string][]ipc.Buffer)
	do := func(ctx context.Context, m lifeMessage) (lifeMessage, error) {
		alloc := func() ipc.Buffer {
			b, err := worker.Alloc(ctx, max(m.Size, 1))
			if err != nil {
				panic(err)
			}
			return b
		}
		how, name, _ := strings.Cut(m.How, " ")
		switch how {
		case "echo":
			return m, nil
		case "new":
			return lifeMessage{How: "new", B: alloc(), More: []ipc.Buffer{alloc(), alloc()}}, nil
		case "both":
			return lifeMessage{B: alloc(), More: []ipc.Buffer{m.B, m.B, {}}}, nil
		case "retained":
			return lifeMessage{B: m.B.Retain(), More: []ipc.Buffer{m.B.Slice(0, m.B.Len()/2)}}, nil
		case "error":
			return lifeMessage{}, errors.New("failed")
		case "result and error":
			return lifeMessage{B: alloc(), More: []ipc.Buffer{m.B, alloc()}}, errors.New("failed")
		case "panic":
			panic("out of cheese")
		case "goexit":
			runtime.Goexit()
		case "too many":
			for range ipc.MaxBuffers + 1 {
				m.More = append(m.More, alloc())
			}
			return m, nil
		case "released":
			b := alloc()
			b.Release()
			return lifeMessage{B: b, More: []ipc.Buffer{alloc(), m.B}}, nil
		case "block": // until the caller gives up
			all.open("blocked " + name)
			<-ctx.Done()
			return lifeMessage{B: alloc(), More: []ipc.Buffer{m.B}}, ctx.Err()
		case "late": // after the caller has given up
			all.open("blocked " + name)
			<-all.of(name)
			return lifeMessage{B: alloc(), More: []ipc.Buffer{m.B}}, nil
		case "keep":
			mu.Lock()
			defer mu.Unlock()
			kept[name] = append(kept[name], m.B.Retain())
			return lifeMessage{}, nil
		case "kept": // is what was kept still what it was?
			mu.Lock()
			defer mu.Unlock()
			for _, b := range kept[name] {
				m.Size += int(b.Bytes()[b.Len()-1])
			}
			return lifeMessage{Size: m.Size}, nil
		case "drop":
			mu.Lock()
			defer mu.Unlock()
			for _, b := range kept[name] {
				b.Release()
				b.Release()
			}
			delete(kept, name)
			return lifeMessage{}, nil
		}
		return lifeMessage{}, ipc.Errorf(ipc.CodeInvalidArgument, "what is %q?", m.How)
	}
	worker.Handle(s, lifeDo, do)
	worker.Handle(s, lifeSafe, do)
	worker.Handle(s, lifeInline, do, worker.WithInline())
	worker.Handle(s, lifeAlone, do, worker.WithConcurrency(1))
	worker.Handle(s, lifeRaw, func(_ context.Context, b ipc.Buffer) (ipc.Buffer, error) { return b, nil })
	worker.Handle(s, lifeTold, func(ctx context.Context, m lifeMessage) (struct{}, error) {
		res, err := do(ctx, m)
		res.release()
		return struct{}{}, err
	})
	worker.Handle(s, lifeBad, func(ctx context.Context, m lifeMessage) (unencodable, error) {
		b, err := worker.Alloc(ctx, 100)
		return unencodable{B: b, Fail: "fail"}, err
	})
	worker.Handle(s, lifeGate, func(_ context.Context, name string) (int, error) {
		if wait, ok := strings.CutPrefix(name, "await "); ok {
			<-all.of(wait)
		} else {
			all.open(name)
		}
		return 0, nil
	}, worker.WithConcurrency(64))
	worker.Handle(s, lifeCount, func(_ context.Context, how string) (lifeStats, error) {
		if how == "trim" {
			arena.Trim()
		}
		return lifeStats{arena.Stats(), mappedMemory(), os.Getpid()}, nil
	})
	worker.HandleServerStream(s, lifeDown, func(ctx context.Context, m lifeMessage, out *ipc.Sender[lifeMessage]) error {
		n := m.Size
		for i := range n {
			m.Size = i + 1
			b, err := worker.Alloc(ctx, i+1)
			if err != nil {
				return err
			}
			err = out.Send(ctx, lifeMessage{Size: i, B: b, More: []ipc.Buffer{m.B}})
			b.Release()
			if err != nil {
				return err
			}
		}
		if m.How == "error" {
			return errors.New("failed")
		}
		return nil
	})
	worker.HandleClientStream(s, lifeUp, func(ctx context.Context, in *ipc.Receiver[lifeMessage]) (lifeMessage, error) {
		var last lifeMessage
		for m, err := range in.All(ctx) {
			if err != nil {
				last.release()
				return lifeMessage{}, err
			}
			last.release()
			if last = m; m.How == "early" {
				break
			}
			if m.How == "error" {
				return last, errors.New("failed")
			}
		}
		if last.B.IsZero() {
			b, err := worker.Alloc(ctx, 100)
			return lifeMessage{B: b}, err
		}
		return last, nil
	})
	worker.HandleBidiStream(s, lifeBoth, func(ctx context.Context, in *ipc.Receiver[lifeMessage], out *ipc.Sender[lifeMessage]) error {
		for m, err := range in.All(ctx) {
			if err != nil {
				return err
			}
			err := out.Send(ctx, m)
			m.release()
			if err != nil {
				return err
			}
			if m.How == "early" {
				return nil
			}
		}
		return nil
	})
	return s.Serve(context.Background())
}

// lifeTest is a host with its worker, neither of which has a garbage collector.
type lifeTest struct {
	*testing.T
	w      client
	arena  *ipc.Arena
	mapped int  // before
	copied bool // a link has an arena of its own, whose memory it keeps for a while
}

// startLife starts the worker. When the test ends, all buffers of both processes have to be
// released, and their memory unmapped.
func startLife(t *testing.T, s spawner, opts ...worker.Option) *lifeTest {
	percent := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	l := &lifeTest{T: t, arena: newArena(t, ipc.ArenaOptions{}), mapped: mappedMemory()}
	w, err := s.spawn(context.Background(), worker.Self("life"), append([]worker.Option{worker.WithArena(l.arena)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	l.w = w
	return l
}

// settled waits until nobody has a buffer, and nothing of their memory is mapped.
func (l *lifeTest) settled(what string) {
	l.Helper()
	var st lifeStats
	var here ipc.ArenaStats
	defer func() {
		if l.Failed() {
			l.Logf("worker: %+v\nhost: %+v, %d mapped", st, here, mappedMemory()-l.mapped)
		}
	}()
	eventually(l, "all buffers are free: "+what, func() (ok bool) {
		var err error
		st, err = lifeCount.Call(context.Background(), l.w, "trim", ipc.WithTimeout(0))
		require.NoError(l, err)
		require.Zero(l, st.Arena.Forgotten)
		l.arena.Trim()
		here = l.arena.Stats()
		require.Zero(l, here.Forgotten)
		return st.Arena.Buffers == 0 && len(st.Arena.Holders) == 0 && st.Arena.Reserved == 0 &&
			here.Buffers == 0 && len(here.Holders) == 0 && here.Reserved == 0 &&
			(l.copied || st.Mapped == 0 && mappedMemory() <= l.mapped)
	})
}

func (l *lifeTest) alloc(n int) ipc.Buffer { return filledBuffer(l.T, l.arena, n, 1) }

func (m lifeMessage) release() {
	m.B.Release()
	for _, b := range m.More {
		b.Release()
	}
}

// eachBufferDriver runs a test with both drivers, one after the other: it counts what the process
// has.
func eachBufferDriver(t *testing.T, test func(t *testing.T, s spawner)) {
	for _, s := range spawners {
		if s.name == "shm" || s.name == "socket" {
			t.Run(s.name, func(t *testing.T) { test(t, s) })
		}
	}
}
