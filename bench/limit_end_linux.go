package main

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/tandemipc/tandem/ipc"
	"github.com/tandemipc/tandem/worker"
)

// endRequest asks a worker to run the other end of a limit or a link, on the
// descriptors that it has inherited. It answers when it does.
type endRequest struct{ Kind string }

var runEnd = ipc.NewMethod[endRequest, struct{}]("bench.end")

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
	case memcpy:
		l.copyBack(a, b)
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
