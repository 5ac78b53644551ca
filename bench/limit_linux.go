package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemipc/tandem/bench/internal/measure"
	"github.com/tandemipc/tandem/bench/internal/report"
	"github.com/tandemipc/tandem/bench/internal/suite"
	"github.com/tandemipc/tandem/drivers/socket"
	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// endRequest asks a worker to run the other end of a limit or a link, on the
// descriptors that it has inherited. It answers when it does.
type endRequest struct{ Kind string }

var runEnd = ipc.NewMethod[endRequest, struct{}]("bench.end")

// The descriptors that the worker of the limits inherits.
const (
	memoryFile = 3 + iota
	unixFile
	pipeIn
	pipeOut
)

func registerEnds(s *worker.Server) {
	var mu sync.Mutex
	var limits *limitFiles
	worker.Handle(s, runEnd, func(_ context.Context, r endRequest) (struct{}, error) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Kind {
		case kindLink:
			return struct{}{}, startLinkEnd()
		}
		if limits == nil {
			l, err := inheritLimits()
			if err != nil {
				return struct{}{}, err
			}
			limits = l
			go echoStream(l.socket, l.socket)
			go echoStream(l.in, l.out)
		}
		go limits.end(r.Kind)
		return struct{}{}, nil
	})
}

// limitFiles are one side's ends of everything that limits are measured on.
type limitFiles struct {
	memory  []byte
	socket  io.ReadWriteCloser
	in, out *os.File
}

const (
	limitMemory = 64 << 10
	// lineA and lineB are so far apart that no prefetcher takes them for one.
	lineA, lineB = 0, 1024
	stopWord     = ^uint64(0)
	limitMessage = 64
)

func (l *limitFiles) close() {
	if l.memory != nil {
		_ = unix.Munmap(l.memory)
	}
	for _, c := range []io.Closer{l.socket, l.in, l.out} {
		_ = c.Close() // nothing is buffered in them
	}
}

// inheritLimits is the worker's.
func inheritLimits() (*limitFiles, error) {
	memory := os.NewFile(memoryFile, "memory")
	defer memory.Close()
	m, err := mapMemory(memory)
	if err != nil {
		return nil, err
	}
	s, err := fileConn(os.NewFile(unixFile, "socket"))
	if err != nil {
		return nil, err
	}
	return &limitFiles{m, s, os.NewFile(pipeIn, "in"), os.NewFile(pipeOut, "out")}, nil
}

func mapMemory(f *os.File) ([]byte, error) {
	m, err := unix.Mmap(int(f.Fd()), 0, limitMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	return m, os.NewSyscallError("mmap", err)
}

func fileConn(f *os.File) (net.Conn, error) {
	defer f.Close()
	return net.FileConn(f)
}

// makeLimits is the host's: its ends and the files for the worker.
func makeLimits() (ours *limitFiles, theirs []*os.File, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	keep := func(fd int, name string) *os.File {
		f := os.NewFile(uintptr(fd), name)
		files = append(files, f)
		return f
	}
	fd, err := unix.MemfdCreate("tandem-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	memory := keep(fd, "memory")
	if err := memory.Truncate(limitMemory); err != nil {
		return nil, nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ourSocket, theirSocket := keep(pair[0], "socket"), keep(pair[1], "socket")
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, theirIn, ourOut)
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, ourIn, theirOut)
	m, err := mapMemory(memory)
	if err != nil {
		return nil, nil, err
	}
	conn, err := fileConn(ourSocket)
	if err != nil {
		return nil, nil, err
	}
	return &limitFiles{m, conn, ourIn, ourOut}, []*os.File{memory, theirSocket, theirIn, theirOut}, nil
}

func echoStream(r io.Reader, w io.Writer) {
	b := make([]byte, limitMessage)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return // the host is gone
		}
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

// await spins until *w is n or stopWord. It returns false if it is the latter,
// or when stop, which is asked now and then, says so.
func await(w *uint64, n uint64, stop func() bool) bool {
	for i := 1; ; i++ {
		switch atomic.LoadUint64(w) {
		case n:
			return true
		case stopWord:
			return false
		}
		if i%(1<<16) == 0 {
			if stop() {
				return false
			}
			runtime.Gosched()
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // cannot fail
		}
	}
}

func never() bool { return false }

// end is the worker's end of one run.
func (l *limitFiles) end(kind string) {
	a, b := word(l.memory, lineA), word(l.memory, lineB)
	switch kind {
	case oneLine:
		for n := uint64(1); await(a, n, never); n += 2 {
			atomic.StoreUint64(a, n+1)
		}
	case twoLines:
		for n := uint64(1); await(a, n, never); n++ {
			atomic.StoreUint64(b, n)
		}
	case futex:
		fa, fb := word32(l.memory, lineA), word32(l.memory, lineB)
		for n := uint32(1); awaitFutex(fa, n, never); n++ {
			atomic.StoreUint32(fb, n)
			futexWake(fb)
		}
	}
	// The acknowledgement: this run touches the memory no more.
	atomic.StoreUint64(b, stopWord)
	futexWake(word32(l.memory, lineB))
}

// futexSlice is how long a waiter sleeps before it looks whether to stop.
const futexSlice = 100 * time.Millisecond

// awaitFutex sleeps until *w is n; otherwise it is like await.
func awaitFutex(w *uint32, n uint32, stop func() bool) bool {
	for {
		switch v := atomic.LoadUint32(w); v {
		case n:
			return true
		case uint32(stopWord & (1<<32 - 1)):
			return false
		default:
			if !futexWait(w, v, futexSlice) && stop() {
				return false
			}
		}
	}
}

// limits is the host's side.
type limits struct {
	worker *suite.Worker
	files  *limitFiles
}

func (l *limits) start(ctx context.Context) error {
	if l.worker != nil {
		return nil
	}
	ours, theirs, err := makeLimits()
	if err != nil {
		return err
	}
	w, err := suite.Start(ctx, "limit", socket.Driver{}, theirs)
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		ours.close()
		return err
	}
	l.worker, l.files = w, ours
	return nil
}

func (l *limits) close() {
	if l.worker == nil {
		return
	}
	if err := l.worker.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "end the worker of limit:", err)
	}
	l.files.close()
	l.worker = nil
}

func planLimits(o *suite.Options) (suite.Plan, error) {
	l := new(limits)
	plan := suite.Plan{Close: l.close}
	var g suite.Group
	for _, kind := range []string{oneLine, twoLines, futex, unixEcho, pipeEcho} {
		if !o.Wants(kind) {
			continue
		}
		r := report.Result{Scenario: "limit", Subject: kind}
		if kind == unixEcho || kind == pipeEcho {
			r.Bytes = new(limitMessage)
		}
		if kind == twoLines {
			g.Base = len(g.Cases)
		}
		g.Cases = append(g.Cases, suite.Case{Result: r, Run: l.runner(kind)})
	}
	plan.Groups = append(plan.Groups, g)
	if o.Wants(memcpy) {
		g := suite.Group{NoRatio: true}
		for _, size := range []int{64 << 10, 64 << 20} {
			g.Cases = append(g.Cases, suite.Case{
				Result: report.Result{Scenario: "limit", Subject: memcpy, Bytes: new(size)},
				Run:    func(ctx context.Context, d time.Duration) (measure.Sample, error) { return copyMemory(size, d) },
			})
		}
		plan.Groups = append(plan.Groups, g)
	}
	return plan, nil
}

// runner returns what measures one limit, with a worker that it starts if there is none.
func (l *limits) runner(kind string) func(context.Context, time.Duration) (measure.Sample, error) {
	return func(ctx context.Context, d time.Duration) (measure.Sample, error) {
		if err := l.start(ctx); err != nil {
			return measure.Sample{}, err
		}
		return l.run(ctx, kind, d)
	}
}

// bounces is how many round trips of a cache line are timed together.
const bounces = 64

// run measures one limit.
func (l *limits) run(ctx context.Context, kind string, d time.Duration) (measure.Sample, error) {
	clear(l.files.memory)
	if _, err := runEnd.Call(ctx, l.worker, endRequest{Kind: kind}); err != nil {
		return measure.Sample{}, l.worker.Blame(err)
	}
	var s measure.Sample
	err := l.worker.While(ctx, func(ctx context.Context) error {
		stop := func() bool { return ctx.Err() != nil }
		trip, together := l.trip(kind, stop)
		for end := measure.Now() + min(d/4, 20*time.Millisecond); measure.Now() < end; { // warm up
			if err := trip(); err != nil {
				return err
			}
		}
		var err error
		s, err = l.worker.Measure(ctx, func(s *measure.Sample) error {
			s.Latencies = measure.NewHistogram(1)
			return suite.TimeTrips(s, d, together, trip)
		})
		if err != nil {
			return err
		}
		if kind == unixEcho || kind == pipeEcho {
			return nil
		}
		// The end of this run must be over before the memory is used again.
		b := word(l.files.memory, lineB)
		atomic.StoreUint64(word(l.files.memory, lineA), stopWord)
		futexWake(word32(l.files.memory, lineA))
		for atomic.LoadUint64(b) != stopWord {
			if err := ctx.Err(); err != nil {
				return err
			}
			time.Sleep(50 * time.Microsecond)
		}
		return nil
	})
	return s, err
}

// errStopped: the other side, or the user, has ended the run.
var errStopped = errors.New("the round trip was not answered")

// trip returns what makes one round trip and checks the answer, and how many
// are to be timed together.
func (l *limitFiles) trip(kind string, stop func() bool) (trip func() error, together int) {
	a, b := word(l.memory, lineA), word(l.memory, lineB)
	var n uint64
	switch kind {
	case oneLine:
		return func() error {
			n += 2
			atomic.StoreUint64(a, n-1)
			if !await(a, n, stop) {
				return errStopped
			}
			return nil
		}, bounces
	case twoLines:
		return func() error {
			n++
			atomic.StoreUint64(a, n)
			if !await(b, n, stop) {
				return errStopped
			}
			return nil
		}, bounces
	case futex:
		fa, fb := word32(l.memory, lineA), word32(l.memory, lineB)
		return func() error {
			n++
			atomic.StoreUint32(fa, uint32(n))
			futexWake(fa)
			if !awaitFutex(fb, uint32(n), stop) {
				return errStopped
			}
			return nil
		}, 1
	}
	out, in := make([]byte, limitMessage), make([]byte, limitMessage)
	w, r := io.Writer(l.out), io.Reader(l.in)
	if kind == unixEcho {
		w, r = l.socket, l.socket
	}
	return func() error {
		n++
		suite.Stamp(out, n)
		if _, err := w.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, in); err != nil {
			return err
		}
		if !bytes.Equal(in, out) {
			return fmt.Errorf("%w: sent %x, got %x", suite.ErrGarbled, out, in)
		}
		return nil
	}, 1
}

func (l *limits) trip(kind string, stop func() bool) (func() error, int) {
	return l.files.trip(kind, stop)
}

func copyMemory(size int, d time.Duration) (measure.Sample, error) {
	from, to := make([]byte, size), make([]byte, size)
	for i := range from {
		from[i] = byte(i * 7)
	}
	copy(to, from) // which also maps the pages
	s := measure.Sample{Latencies: measure.NewHistogram(1)}
	before, start := suite.Usage(suite.UsageRequest{GC: true}), measure.Now()
	for now := start; s.Ops == 0 || now-start < d; {
		at := now
		from[int(s.Ops)%size]++
		copy(to, from)
		now = measure.Now()
		measure.Record(s.Latencies, now-at, 1)
		s.Ops++
	}
	s.Busy = measure.Now() - start
	s.Elapsed = s.Busy
	s.Host = measure.Self().Since(before)
	s.Host.RSS, s.Host.Threads, s.Host.Mallocs = 0, 0, 0
	s.Bytes = s.Ops * int64(size)
	if !bytes.Equal(from, to) {
		return s, fmt.Errorf("%w: the copy differs", suite.ErrGarbled)
	}
	return s, nil
}
